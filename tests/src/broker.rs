//! The broker under test: a gateway, or with `WEIR_TESTS_REFERENCE=kafka` a real Apache Kafka,
//! against which the tests themselves are proved.

use crate::{Gateway, Kafka};

#[derive(Debug)]
pub enum Broker {
    Weir(Box<Gateway>),
    Kafka(Kafka),
}

impl Broker {
    pub fn started(name: &str) -> Broker {
        match std::env::var("WEIR_TESTS_REFERENCE").as_deref() {
            Ok("kafka") => Broker::Kafka(Kafka::started(name)),
            Ok(other) => panic!("WEIR_TESTS_REFERENCE={other}: only kafka is known"),
            Err(_) => Broker::Weir(Box::new(Gateway::started(name))),
        }
    }

    pub fn bootstrap(&self) -> String {
        match self {
            Broker::Weir(gateway) => gateway.bootstrap(),
            Broker::Kafka(kafka) => kafka.bootstrap(),
        }
    }
}
