//! A quiet site, from which a minority is cut off for a while. The others must not notice.

use super::plan::{Bug, Plan};
use super::run::Run;
use super::truth::PreVoteDoesNotDisrupt;
use crate::checks::Violation;
use crate::runner::Tally;
use weir_core::rng::Rng;

pub fn run(seed: u64, bug: Bug) -> Result<Tally, Violation> {
    let mut rng = Rng::new(seed);
    let nodes = 3 + rng.below(5) as usize;
    let quiet = Plan {
        nodes,
        voters: nodes,
        loss: 0,
        delay_us: 2_000,
        delay_rare_us: 20_000,
        flush_us: 5_000,
        payload_bytes_max: 100,
        snapshot_entries: 1_000,
        old_entries: 0,
        bug,
        ..Plan::random(&mut rng)
    };
    let mut run = Run::new(seed, quiet);
    run.play_until(run.world.now.plus_ms(10_000))?;
    let before = leader(&run);
    let Some((leads, _)) = before else {
        return PreVoteDoesNotDisrupt::fails(format!("nobody leads{}", run.describe()));
    };
    let apart = 1 + rng.below((nodes as u64 - 1) / 2) as usize;
    let others = (0..nodes).filter(|node| *node != leads).take(apart);
    for node in others {
        // Deaf, mute or both.
        let (inward, outward) = [(true, false), (false, true), (true, true)][rng.below(3) as usize];
        run.net.isolate(node, nodes, inward, outward);
    }
    run.play_until(run.world.now.plus_ms(3_000 + rng.below(20_000)))?;
    let apart = leader(&run);
    run.net.join();
    run.play_until(run.world.now.plus_ms(8_000))?;
    let after = leader(&run);
    if apart != before || after != before {
        return PreVoteDoesNotDisrupt::fails(format!(
            "{before:?} led with its term, then {apart:?}, then {after:?}"
        ));
    }
    Ok(Tally::default())
}

fn leader(run: &Run) -> Option<(usize, u64)> {
    let leader = run.leader()?;
    let term = run.machines[leader].quorum.as_ref()?.term();
    Some((leader, term))
}
