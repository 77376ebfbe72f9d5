//! The status as Prometheus reads it (text format 0.0.4). Names are `weir_*`, units go last.

use super::status::Status;
use std::fmt::{Display, Write};
use weir_core::log::{Pressure, Stats};
use weir_core::node::Phase;

pub fn render(status: &Status) -> String {
    let mut page = Page::default();
    process(&mut page, status);
    kafka(&mut page, status);
    topics(&mut page, status);
    groups(&mut page, status);
    flash(&mut page, &status.node.log);
    mqtt(&mut page, status);
    mirror(&mut page, status);
    page.0
}

#[derive(Default)]
struct Page(String);

/// One metric: its values follow its head, as the format wants it.
struct Metric<'p> {
    page: &'p mut String,
    name: &'static str,
}

impl Page {
    fn gauge(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.metric(name, help, "gauge")
    }

    fn counter(&mut self, name: &'static str, help: &str) -> Metric<'_> {
        self.metric(name, help, "counter")
    }

    fn metric(&mut self, name: &'static str, help: &str, kind: &str) -> Metric<'_> {
        // Writing to a string cannot fail, here and below.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Metric { page: &mut self.0, name }
    }
}

impl Metric<'_> {
    fn is(&mut self, value: impl Display) {
        self.with(&[], value);
    }

    fn with(&mut self, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &dyn Display)], value: impl Display) {
        self.page.push_str(self.name);
        self.page.push_str(suffix);
        for (at, (name, text)) in labels.iter().enumerate() {
            self.page.push(if at == 0 { '{' } else { ',' });
            let _ = write!(self.page, "{name}=\"");
            for c in text.to_string().chars() {
                match c {
                    '\\' => self.page.push_str("\\\\"),
                    '"' => self.page.push_str("\\\""),
                    '\n' => self.page.push_str("\\n"),
                    c => self.page.push(c),
                }
            }
            self.page.push('"');
        }
        if !labels.is_empty() {
            self.page.push('}');
        }
        let _ = writeln!(self.page, " {value}");
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn process(page: &mut Page, status: &Status) {
    page.gauge("weir_info", "Always 1; the labels say what runs.").with(
        &[
            ("version", &status.version),
            ("node", &status.node.node),
            ("cluster_id", &status.node.cluster_id),
        ],
        1,
    );
    page.gauge("weir_serving", "1 while clients are accepted.").is(u8::from(status.serving));
    page.gauge("weir_fenced", "1 when the medium takes no more writes.")
        .is(u8::from(status.node.phase == Phase::Fenced));
    page.gauge("weir_uptime_seconds", "Time since the start.").is(status.uptime_seconds);
    page.gauge("weir_clock_trusted", "1 while the wall clock may expire records.")
        .is(u8::from(status.node.clock_trusted));
    page.gauge("weir_process_resident_memory_bytes", "Resident memory.")
        .is(status.process.resident_bytes);
    page.counter("weir_process_cpu_seconds_total", "CPU time used.").is(status.process.cpu_seconds);
    page.gauge("weir_process_threads", "Threads.").is(status.process.threads);
    page.gauge("weir_process_open_files_max", "Files that may be open.")
        .is(status.process.open_files_max);
}

fn kafka(page: &mut Page, status: &Status) {
    page.gauge("weir_kafka_connections", "TCP connections of Kafka clients.")
        .is(status.kafka_connections);
    page.gauge("weir_request_bytes", "Bytes of requests being received or handled.")
        .is(status.request_bytes);
    let mut requests =
        page.counter("weir_requests_total", "Kafka requests, the bridge's included.");
    for api in &status.node.requests {
        requests.with(&[("api", &api.api)], api.requests);
    }
    let mut errors = page.counter("weir_request_errors_total", "Kafka answers with an error.");
    for api in &status.node.requests {
        for (code, count) in &api.errors {
            errors.with(&[("api", &api.api), ("error", code)], count);
        }
    }
    page.gauge("weir_produces_waiting", "Produce requests that wait for the flash.")
        .is(status.node.produces_waiting);
    page.gauge("weir_fetches_waiting", "Fetch requests that wait for records or the disk.")
        .is(status.node.fetches_waiting);
    page.counter("weir_replica_repairs_total", "Lost parts that came back from other gateways.")
        .is(status.node.repairs);
    page.counter("weir_replica_refills_total", "Damaged partitions that were begun anew.")
        .is(status.node.refills);
    page.gauge("weir_fetch_sessions", "Incremental fetch sessions.").is(status.node.fetch_sessions);
}

fn topics(page: &mut Page, status: &Status) {
    let mut each = |name, help: &str, value: fn(&weir_core::node::PartitionStatus) -> i64| {
        let mut metric = page.gauge(name, help);
        for topic in &status.node.topics {
            for (index, partition) in topic.partitions.iter().enumerate() {
                let labels: [(&str, &dyn Display); 2] =
                    [("topic", &topic.name), ("partition", &index)];
                metric.with(&labels, value(partition));
            }
        }
    };
    each("weir_partition_log_start_offset", "First offset that is kept.", |p| p.log_start);
    each("weir_partition_log_end_offset", "Offset of the next record.", |p| p.log_end);
    each("weir_partition_high_watermark", "Offset below which all is on flash.", |p| p.durable_end);
    each("weir_partition_bytes", "Bytes of record batches that are kept.", |p| p.bytes as i64);
}

fn groups(page: &mut Page, status: &Status) {
    let mut members = page.gauge("weir_group_members", "Members of a consumer group.");
    for group in &status.node.groups {
        members.with(&[("group", &group.id), ("state", &group.state)], group.members.len());
    }
    let mut committed = page.gauge("weir_group_committed_offset", "Committed offset.");
    for group in &status.node.groups {
        for offset in &group.offsets {
            let labels: [(&str, &dyn Display); 3] =
                [("group", &group.id), ("topic", &offset.topic), ("partition", &offset.partition)];
            committed.with(&labels, offset.committed);
        }
    }
    let mut lag = page.gauge("weir_group_lag", "Records that a group has not committed yet.");
    for group in &status.node.groups {
        for offset in &group.offsets {
            let labels: [(&str, &dyn Display); 3] =
                [("group", &group.id), ("topic", &offset.topic), ("partition", &offset.partition)];
            lag.with(&labels, offset.lag);
        }
    }
}

fn flash(page: &mut Page, log: &Stats) {
    let slot_bytes = log.slot_bytes;
    page.gauge("weir_flash_bytes", "Size of the flash log.").is(slot_bytes * u64::from(log.slots));
    page.gauge("weir_flash_free_bytes", "Bytes in free slots of the flash log.")
        .is(slot_bytes * u64::from(log.slots_free));
    page.counter("weir_flash_payload_bytes_total", "Bytes of record batches since the start.")
        .is(log.payload_bytes);
    page.counter("weir_flash_written_bytes_total", "Bytes written since the start, not zeroing.")
        .is(log.written_bytes);
    page.counter("weir_flash_zeroed_bytes_total", "Bytes of slots zeroed.").is(log.zeroed_bytes);
    page.gauge("weir_flash_pending_bytes", "Bytes in memory that wait for the next commits.")
        .is(log.pending_bytes);
    page.counter("weir_flash_groups_total", "Commit groups written.").is(log.groups);
    page.counter("weir_flash_flushes_total", "Flushes (fdatasync).").is(log.flushes);
    page.gauge("weir_flash_flush_seconds_last", "Duration of the last flush.")
        .is(seconds(log.flush_ns_last));
    page.counter("weir_flash_write_failures_total", "Writes and flushes that failed.")
        .is(log.write_failures);
    wear(page, log);
    pressure(page, log);
    page.gauge("weir_flash_damaged_ranges", "Ranges of offsets that are lost to damage now.")
        .is(log.damaged_ranges);
    scrub(page, log);
    cleaning(page, log);
    index(page, log);
    compaction(page, log);
    page.counter(
        "weir_clock_jumps_total",
        "Times that the wall clock jumped by over 10 minutes, ahead or back.",
    )
    .is(log.clock_jumps);
    page.counter("weir_flash_torn_groups_total", "Unacknowledged groups that a cut tore.")
        .is(log.torn_groups_dropped);
}

/// What the medium has cost so far, and what keeps it from costing more.
fn wear(page: &mut Page, log: &Stats) {
    let life = &log.life;
    page.counter(
        "weir_flash_life_programmed_bytes_total",
        "Flash pages programmed over the card's life.",
    )
    .is(life.programmed_bytes);
    page.counter("weir_flash_life_payload_bytes_total", "The records' own share of it.")
        .is(life.payload_bytes);
    page.counter("weir_flash_life_written_bytes_total", "Bytes written over the card's life.")
        .is(life.written_bytes);
    page.counter("weir_flash_life_flushes_total", "Flushes over the card's life.").is(life.flushes);
    page.counter("weir_flash_life_seconds_total", "Time that the log was open.").is(life.seconds);
    page.gauge(
        "weir_flash_write_amplification",
        "Bytes written for each byte of record batches, over the card's life.",
    )
    .is(log.write_amplification);
    if let Some(cap) = log.cap_per_second {
        page.gauge("weir_flash_flush_cap", "Flushes a second that are allowed at present.").is(cap);
    }
    page.counter("weir_flash_cap_waits_total", "Commits that waited for the flush cap.")
        .is(log.cap_waits);
    page.counter("weir_flash_cap_wait_seconds_total", "How long they waited.")
        .is(seconds(log.cap_wait_ns_total));
    if let Some(days) = log.forecast_days {
        page.gauge("weir_flash_forecast_years", "How long the card lasts from its first day.")
            .is(days as f64 / 365.25);
    }
}

/// What reading everything now and then has found.
fn scrub(page: &mut Page, log: &Stats) {
    let scrub = &log.scrub;
    page.counter("weir_flash_scrub_passes_total", "Times that the scrub has read everything.")
        .is(scrub.passes);
    page.counter("weir_flash_scrub_bytes_total", "Bytes that the scrub has read.").is(scrub.bytes);
    page.gauge("weir_flash_scrub_slot", "The slot that the scrub reads next.").is(scrub.slot);
    page.counter("weir_flash_scrub_damages_total", "Damaged places that the scrub has found.")
        .is(scrub.damages);
    page.counter("weir_flash_scrub_lost_offsets_total", "Offsets that were lost with them.")
        .is(scrub.lost_offsets);
    page.counter("weir_flash_scrub_unreadable_total", "Slots that the device could not read.")
        .is(scrub.unreadable);
}

/// What was copied to make slots free.
fn cleaning(page: &mut Page, log: &Stats) {
    page.counter("weir_flash_cleaned_slots_total", "Slots made free by copying what counted.")
        .is(log.slots_cleaned);
    page.counter("weir_flash_cleaned_bytes_total", "Bytes that cleaning copied.")
        .is(log.cleaned_bytes);
    page.counter(
        "weir_flash_repaired_bytes_total",
        "Bytes written for what was lost and came back from other gateways.",
    )
    .is(log.repaired_bytes);
}

/// What the index takes in memory.
fn index(page: &mut Page, log: &Stats) {
    let index = &log.index;
    page.gauge("weir_flash_index_runs", "Which slots hold what of each partition: entries.")
        .is(index.runs);
    page.gauge("weir_flash_index_runs_bytes", "Memory for them.").is(index.runs_bytes);
    page.gauge("weir_flash_index_runs_max", "How many there may be: records are refused then.")
        .is(index.runs_max);
    page.counter("weir_flash_index_runs_gathered_total", "Those written anew to be fewer.")
        .is(index.runs_gathered);
    page.gauge("weir_flash_index_extents", "What stands where in slots, as far as it is cached.")
        .is(index.extents);
    page.gauge("weir_flash_index_extents_bytes", "Memory for that.").is(index.extents_bytes);
    page.gauge("weir_flash_index_extents_bytes_max", "The most that it may take.")
        .is(index.extents_bytes_max);
}

/// What key compaction has done.
fn compaction(page: &mut Page, log: &Stats) {
    let compaction = &log.compaction;
    page.counter("weir_compaction_jobs_total", "Compactions of a partition that are done.")
        .is(compaction.jobs);
    page.counter("weir_compaction_read_bytes_total", "Bytes of batches read to compact.")
        .is(compaction.read_bytes);
    page.counter("weir_compaction_written_bytes_total", "Bytes that compaction wrote anew.")
        .is(log.rewritten_bytes);
    page.counter("weir_compaction_removed_records_total", "Records that compaction removed.")
        .is(compaction.removed_records);
    let used = f64::from(compaction.map_keys) / f64::from(compaction.map_keys_max.max(1));
    page.gauge("weir_compaction_map_ratio", "How full the map of the last compaction was.")
        .is(used);
}

/// How short the disk budget is.
fn pressure(page: &mut Page, log: &Stats) {
    let share = |slots: u32| f64::from(slots) / f64::from(log.slots.max(1));
    page.gauge("weir_flash_free_ratio", "Share of the disk budget that is free.")
        .is(share(log.slots_free));
    page.gauge("weir_flash_expire_ratio", "Below this share records expire before their time.")
        .is(share(log.slots_expire_below));
    page.gauge("weir_flash_refuse_ratio", "Below this share produce is refused.")
        .is(share(log.slots_refuse_below));
    let mut pressure = page.gauge("weir_flash_pressure", "1 for the state of the disk budget.");
    for state in Pressure::ALL {
        pressure.with(&[("state", &state.name())], u8::from(state == log.pressure));
    }
    page.counter("weir_flash_refused_total", "Batches refused for want of space.")
        .is(log.full_refusals);
    page.counter("weir_flash_expired_early_records_total", "Offsets expired before their time.")
        .is(log.expired_early_records);
}

fn mqtt(page: &mut Page, status: &Status) {
    let Some(mqtt) = &status.mqtt else { return };
    page.gauge("weir_mqtt_connections", "MQTT connections.").is(mqtt.connections);
    page.counter("weir_mqtt_connections_total", "MQTT connections since the start.")
        .is(mqtt.connected);
    page.counter(
        "weir_mqtt_refused_total",
        "MQTT connections refused or ended for what they sent.",
    )
    .is(mqtt.refused);
    page.gauge("weir_mqtt_sessions", "Sessions that outlive their connection.").is(mqtt.sessions);
    let mut publishes = page.counter("weir_mqtt_publishes_total", "Publishes taken, by QoS.");
    for (qos, count) in mqtt.publishes.iter().enumerate() {
        publishes.with(&[("qos", &qos)], count);
    }
    page.counter("weir_mqtt_acks_total", "PUBACK, PUBREC and PUBCOMP packets sent.").is(mqtt.acks);
    page.counter("weir_mqtt_publishes_refused_total", "Publishes answered with a failure.")
        .is(mqtt.publishes_refused);
    page.counter("weir_mqtt_duplicates_total", "Repeated QoS 2 publishes recognised.")
        .is(mqtt.duplicates);
    page.gauge("weir_mqtt_queued_bytes", "Bytes that wait for the log.").is(mqtt.queued_bytes);
    let name = "weir_mqtt_durable_seconds";
    let help = "From the arrival of a publish until it was on flash.";
    let mut durable = page.metric(name, help, "histogram");
    let mut total = 0;
    for (at, count) in mqtt.durable.counts.iter().enumerate() {
        total += count;
        let end = mqtt.durable.le_micros.get(at);
        let end = end.map_or("+Inf".to_string(), |micros| (*micros as f64 / 1e6).to_string());
        durable.suffixed("_bucket", &[("le", &end)], total);
    }
    durable.suffixed("_sum", &[], mqtt.durable.sum_micros as f64 / 1e6);
    durable.suffixed("_count", &[], total);
    let mut connected = page.gauge("weir_mqtt_source_connected", "1 while a source is connected.");
    for source in &mqtt.sources {
        connected.with(&[("source", &source.name)], u8::from(source.connected));
    }
    let mut messages = page.counter("weir_mqtt_source_messages_total", "Messages of a source.");
    for source in &mqtt.sources {
        messages.with(&[("source", &source.name)], source.messages);
    }
}

fn mirror(page: &mut Page, status: &Status) {
    use weir_bridge::mirror::{RouteStatus, State};
    let routes = &status.mirror.routes;
    let mut each = |name, help: &str, kind, value: fn(&RouteStatus) -> i64| {
        let mut metric = page.metric(name, help, kind);
        for route in routes {
            metric.with(&[("mirror", &route.name)], value(route));
        }
    };
    each("weir_mirror_streaming", "1 while a mirror streams.", "gauge", |route| {
        i64::from(route.state == State::Streaming)
    });
    each("weir_mirror_lag", "Records not mirrored yet.", "gauge", |route| route.lag);
    each("weir_mirror_records_total", "Records mirrored.", "counter", |r| r.records as i64);
    each("weir_mirror_bytes_total", "Bytes sent over the link.", "counter", |r| r.bytes as i64);
    each("weir_mirror_gaps_total", "Gap markers written.", "counter", |r| r.gaps as i64);
    each("weir_mirror_failures_total", "Times the link failed.", "counter", |r| r.failures as i64);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_amplification_is_over_the_life_and_jumps_of_the_clock_are_counted() {
        let mut log = Stats { written_bytes: 900, payload_bytes: 100, ..Stats::default() };
        log.life.written_bytes = 3_000;
        (log.write_amplification, log.clock_jumps) = (1.5, 2);
        let mut page = Page::default();
        flash(&mut page, &log);
        for line in [
            "weir_flash_written_bytes_total 900",
            "weir_flash_life_written_bytes_total 3000",
            "weir_flash_write_amplification 1.5",
            "# TYPE weir_clock_jumps_total counter",
            "weir_clock_jumps_total 2",
        ] {
            assert!(page.0.lines().any(|said| said == line), "{line}: {}", page.0);
        }
    }
}
