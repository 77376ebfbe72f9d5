//! Kafka's range assignor: each topic's partitions, in order, in even runs over its subscribers.

use std::collections::BTreeMap;

/// The name by which members agree on it.
pub(super) const NAME: &str = "range";

/// Partitions by member and topic.
pub(super) type Assignment = BTreeMap<String, BTreeMap<String, Vec<i32>>>;

/// Divides the partitions of each topic over the members that subscribe to it. The first members
/// take the remainder, as in Kafka, so members of other clients under the same leader see nothing
/// new.
pub(super) fn range(
    subscriptions: &BTreeMap<String, Vec<String>>,
    partitions: &BTreeMap<String, i32>,
) -> Assignment {
    let mut assignment: Assignment =
        subscriptions.keys().map(|member| (member.clone(), BTreeMap::new())).collect();
    for (topic, count) in partitions {
        let members: Vec<&String> = subscriptions
            .iter()
            .filter(|(_, topics)| topics.contains(topic))
            .map(|(member, _)| member)
            .collect();
        let Ok(members_count) = i32::try_from(members.len()) else { continue };
        if members_count == 0 {
            continue;
        }
        let (each, more) = (count / members_count, count % members_count);
        let mut next = 0;
        for (member, number) in members.into_iter().zip(0..) {
            let run = each + i32::from(number < more);
            if run > 0 {
                let topics = assignment.entry(member.clone()).or_default();
                topics.insert(topic.clone(), (next..next + run).collect());
            }
            next += run;
        }
    }
    assignment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(members: &[(&str, &[&str])], topics: &[(&str, i32)], expected: &str) {
        let subscriptions = members
            .iter()
            .map(|(m, topics)| (m.to_string(), topics.iter().map(|t| t.to_string()).collect()))
            .collect();
        let partitions = topics.iter().map(|(t, n)| (t.to_string(), *n)).collect();
        let found = format!("{:?}", range(&subscriptions, &partitions)).replace('"', "");
        assert_eq!(found, expected);
    }

    #[test]
    fn runs_are_even_and_the_first_members_take_the_remainder() {
        check(&[("a", &["t"]), ("b", &["t"])], &[("t", 5)], "{a: {t: [0, 1, 2]}, b: {t: [3, 4]}}");
        check(&[("a", &["t"]), ("b", &["t"])], &[("t", 1)], "{a: {t: [0]}, b: {}}");
        check(
            &[("a", &["t", "u"]), ("b", &["u"])],
            &[("t", 2), ("u", 2), ("v", 9)],
            "{a: {t: [0, 1], u: [0]}, b: {u: [1]}}",
        );
        check(&[("a", &["t"])], &[], "{a: {}}");
    }
}
