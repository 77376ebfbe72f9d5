//! A bare MQTT client that a test controls packet by packet: what no well-behaved library would
//! send.

use std::io::{Error, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// One packet as it came: the first byte and the rest without its length.
pub type Packet = (u8, Vec<u8>);

#[derive(Debug)]
pub struct Mqtt {
    pub stream: TcpStream,
    v5: bool,
}

pub const CONNACK: u8 = 0x20;
pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBCOMP: u8 = 0x70;

/// Reason codes from here on say no.
const FAILURE: u8 = 0x80;

fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u16).to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// A whole packet of a first byte and a body.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut left = body.len();
    loop {
        let low = (left % 128) as u8;
        left /= 128;
        bytes.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

impl Mqtt {
    /// A connection on which nothing was said yet.
    pub fn raw(port: u16, v5: bool) -> std::io::Result<Mqtt> {
        Mqtt::raw_to(&format!("127.0.0.1:{port}"), v5)
    }

    fn raw_to(address: &str, v5: bool) -> std::io::Result<Mqtt> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(15)))?;
        Ok(Mqtt { stream, v5 })
    }

    /// CONNECT and CONNACK; says whether the session was there before.
    pub fn connect(port: u16, v5: bool, id: &str, clean: bool) -> std::io::Result<(Mqtt, bool)> {
        Mqtt::connect_to(&format!("127.0.0.1:{port}"), v5, id, clean)
    }

    /// The same at a gateway of a site.
    pub fn connect_to(
        address: &str,
        v5: bool,
        id: &str,
        clean: bool,
    ) -> std::io::Result<(Mqtt, bool)> {
        let mut mqtt = Mqtt::raw_to(address, v5)?;
        let mut body = string("MQTT");
        body.extend_from_slice(&[if v5 { 5 } else { 4 }, if clean { 2 } else { 0 }, 0, 0]);
        if v5 {
            // Session Expiry Interval: an hour.
            body.extend_from_slice(&[5, 0x11, 0, 0, 0x0e, 0x10]);
        }
        body.extend(string(id));
        mqtt.send(&packet(0x10, &body))?;
        let (first, body) = mqtt.receive()?;
        assert_eq!((first, body[1]), (CONNACK, 0), "CONNACK {body:?}");
        Ok((mqtt, body[0] & 1 == 1))
    }

    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)
    }

    pub fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        qos: u8,
        id: u16,
        dup: bool,
    ) -> std::io::Result<()> {
        let mut body = string(topic);
        if qos > 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        if self.v5 {
            body.push(0);
        }
        body.extend_from_slice(payload);
        self.send(&packet(0x30 | u8::from(dup) << 3 | qos << 1, &body))
    }

    pub fn release(&mut self, id: u16) -> std::io::Result<()> {
        self.send(&packet(0x62, &id.to_be_bytes()))
    }

    /// The next packet; an error when the broker closed or nothing came for 15 seconds.
    pub fn receive(&mut self) -> std::io::Result<Packet> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        let first = byte[0];
        let (mut length, mut shift) = (0usize, 0);
        loop {
            self.stream.read_exact(&mut byte)?;
            length |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((first, body))
    }

    /// Waits for an acknowledgement of this kind and packet identifier. An error when it says no:
    /// an MQTT 5 broker whose disk fails answers a publish, too, with a reason. (A PUBCOMP cannot
    /// say no: its reason is that the exchange was over before.)
    pub fn expect(&mut self, kind: u8, id: u16) -> std::io::Result<()> {
        let (first, body) = self.receive()?;
        assert_eq!((first, &body[..2]), (kind, &id.to_be_bytes()[..]), "{body:?}");
        match body.get(2) {
            Some(reason) if kind != PUBCOMP && *reason >= FAILURE => {
                Err(Error::other(format!("packet {id} was refused, reason {reason:#04x}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_publish_that_is_refused_does_not_count_as_acknowledged() {
        let broker = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut device = Mqtt::raw(broker.local_addr().unwrap().port(), true).unwrap();
        let (mut broker, _) = broker.accept().unwrap();
        // Success in short and in full, nobody subscribed, quota exceeded.
        for body in [&[0, 1][..], &[0, 1, 0], &[0, 1, 0x10], &[0, 1, 0x97]] {
            broker.write_all(&packet(PUBACK, body)).unwrap();
        }
        let answers = [(); 4].map(|()| device.expect(PUBACK, 1).is_ok());
        assert_eq!(answers, [true, true, true, false]);
        // That nobody waits for this release any more does not take the publish back.
        broker.write_all(&packet(PUBCOMP, &[0, 1, 0x92])).unwrap();
        device.expect(PUBCOMP, 1).unwrap();
    }
}
