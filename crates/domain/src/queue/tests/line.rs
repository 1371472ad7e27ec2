//! Where a task stands in line.

use super::*;
use crate::queue::{Line, lines};

#[test]
fn who_is_more_urgent_and_who_has_waited_longer_goes_first_and_owners_take_turns() {
    let needs = one_cpu();
    let later = Time::UNIX_EPOCH + Span::from_secs(9).to_std();
    let classes = [
        Class { priority: 90, ..class(1, "zoe", &needs, 5) },
        class(2, "ana", &needs, 10),
        Class { since: later, ..class(3, "ana", &needs, 1) },
        class(4, "ben", &needs, 100),
        class(5, "mia", &needs, 2),
        Class { project: THEIRS, priority: 99, ..class(6, "eve", &needs, 7) },
        Class { priority: 10, ..class(7, "zoe", &needs, 1) },
    ];
    let lines = lines(&classes);
    let line = |at: usize| lines[at];
    // Five are urgent; ana's first goes beside the others' first.
    assert_eq!(line(1), Line { ahead: 5, waiting: 119 });
    // Behind ten of her own, ten of ben's and both of mia's.
    assert_eq!(line(2), Line { ahead: 5 + 10 + 10 + 2, waiting: 119 });
    assert_eq!(line(3), Line { ahead: 5, waiting: 119 });
    assert_eq!(line(6), Line { ahead: 118, waiting: 119 });
    assert_eq!(line(5), Line { ahead: 0, waiting: 7 }, "another project's workers are its own");
}
