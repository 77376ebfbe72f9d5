//! One bound for the bytes of all requests that are being received or handled.
//!
//! Unfinished frames count too, and a budget that is full of unfinished frames would let none of
//! them finish. So one connection at a time may go beyond it to finish its frame: memory is bounded
//! by the budget plus one frame, and somebody always makes progress.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::task::{Context, Waker};
use weir_core::types::ConnId;

#[derive(Debug)]
pub struct Budget {
    bytes_max: usize,
    used: Cell<usize>,
    overdraft: Cell<Option<ConnId>>,
    waiting: RefCell<BTreeMap<ConnId, Waker>>,
}

impl Budget {
    pub fn new(bytes_max: usize) -> Budget {
        Budget {
            bytes_max,
            used: Cell::new(0),
            overdraft: Cell::new(None),
            waiting: RefCell::default(),
        }
    }

    pub fn used(&self) -> usize {
        self.used.get()
    }

    /// Whether `conn` may read on. If not, its task is woken when that may have changed.
    pub fn may_read(&self, conn: ConnId, has_partial_frame: bool, cx: &Context<'_>) -> bool {
        if self.used.get() < self.bytes_max {
            return true;
        }
        if has_partial_frame && self.overdraft.get().is_none_or(|holder| holder == conn) {
            self.overdraft.set(Some(conn));
            return true;
        }
        self.waiting.borrow_mut().insert(conn, cx.waker().clone());
        false
    }

    /// Counts bytes that have arrived.
    pub fn take(&self, bytes: usize) {
        self.used.set(self.used.get() + bytes);
    }

    /// Gives bytes back: their request is answered, or their connection is gone.
    pub fn release(&self, bytes: usize) {
        let used = self.used.get();
        assert!(bytes <= used, "bytes are given back once");
        self.used.set(used - bytes);
        if used >= self.bytes_max && used - bytes < self.bytes_max {
            self.wake_all();
        }
    }

    /// `conn` has no unfinished frame any more: another may go beyond the budget.
    pub fn end_overdraft(&self, conn: ConnId) {
        if self.overdraft.get() == Some(conn) {
            self.overdraft.set(None);
            self.wake_all();
        }
    }

    fn wake_all(&self) {
        for waker in self.waiting.take().into_values() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_lets_one_unfinished_frame_finish() {
        let cx = Context::from_waker(Waker::noop());
        let budget = Budget::new(100);
        budget.take(100);
        assert!(!budget.may_read(ConnId(1), false, &cx));
        assert!(budget.may_read(ConnId(2), true, &cx));
        assert!(!budget.may_read(ConnId(3), true, &cx));
        assert!(budget.may_read(ConnId(2), true, &cx));
        budget.end_overdraft(ConnId(2));
        assert!(budget.may_read(ConnId(3), true, &cx));
        budget.release(1);
        assert!(budget.may_read(ConnId(1), false, &cx));
    }
}
