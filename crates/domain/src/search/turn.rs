//! Lets a search pause in the midst of its work and continue later: what time it is, its caller alone knows.

/// The caller is asked after this much effort, which takes a few milliseconds.
const ASK_EVERY: usize = 1 << 18;

/// The part of a search that is done in one go. A unit of effort is a byte that costs nothing special, or the visit of one state
/// of an automaton.
pub struct Turn<'a> {
    is_over: &'a mut dyn FnMut() -> bool,
    effort: usize,
    has_ended: bool,
}

impl<'a> Turn<'a> {
    /// A turn that ends once `is_over` says so, which is asked every now and then.
    pub fn new(is_over: &'a mut dyn FnMut() -> bool) -> Turn<'a> {
        Turn { is_over, effort: 0, has_ended: false }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Some effort was made. Whether the turn has ended.
    pub(super) fn spend(&mut self, effort: usize) -> bool {
        self.effort = self.effort.saturating_add(effort);
        if self.effort >= ASK_EVERY {
            self.effort = 0;
            self.has_ended |= (self.is_over)();
        }
        self.has_ended
    }
}
