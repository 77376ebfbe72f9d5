//! What waits for the node: inputs from connections, the disk and the bridge.
//!
//! The queue has no bound of its own, because everything that enters it has one already: requests
//! hold bytes of the [`super::budget::Budget`] and a place among their connection's requests in
//! flight, disk results answer operations that the node asked for, and a connection is closed once.

use std::sync::{Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use weir_core::node::Input;

#[derive(Debug, Default)]
pub struct Inbox {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    inputs: Vec<Input>,
    waker: Option<Waker>,
}

impl Inbox {
    pub fn push(&self, input: Input) {
        self.push_all([input]);
    }

    /// Adds all inputs at the cost of one wake-up.
    pub fn push_all(&self, inputs: impl IntoIterator<Item = Input>) {
        let waker = {
            let mut state = self.lock();
            state.inputs.extend(inputs);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Moves everything that waits into `into`, which must be empty; pending while nothing waits.
    pub fn poll_take(&self, cx: &mut Context<'_>, into: &mut Vec<Input>) -> Poll<()> {
        let mut state = self.lock();
        if state.inputs.is_empty() {
            state.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        std::mem::swap(&mut state.inputs, into);
        Poll::Ready(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the inbox")
    }
}
