//! Panics that a reader catches: a library's are expected, maskmill's own are bugs.

use std::cell::{Cell, RefCell};
use std::panic::{self, PanicHookInfo, catch_unwind, resume_unwind};
use std::sync::Once;

thread_local! {
    /// Panics in maskmill's own code, on this thread.
    static OWN: Cell<usize> = const { Cell::new(0) };

    /// What the last panic of a library said, on this thread.
    static FOREIGN: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Runs `check`, which may call readers that catch their libraries' panics.
///
/// # Panics
/// If `check` does, and if a panic of maskmill's own code was caught on the way.
pub(crate) fn guarded(check: impl FnOnce()) {
    static HOOK: Once = Once::new();
    HOOK.call_once(set_hook);
    let before = OWN.get();
    // Nothing that `check` may have left half-changed is looked at again.
    if let Err(payload) = catch_unwind(panic::AssertUnwindSafe(check)) {
        if OWN.get() == before {
            FOREIGN.with_borrow(|panic| eprintln!("nobody caught: {panic}"));
        }
        resume_unwind(payload);
    }
    let caught = OWN.get() - before;
    assert_eq!(caught, 0, "maskmill's own code panicked, see above");
}

/// Libraries' panics become silent, and all panics unwind: libFuzzer's own hook would end the process before a reader
/// could catch anything. It ends it all the same when a panic reaches it.
fn set_hook() {
    // The first is libFuzzer's or the default one, the second is the default one.
    drop(panic::take_hook());
    let default = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if is_own(panic) {
            OWN.set(OWN.get() + 1);
            default(panic);
        } else {
            FOREIGN.set(panic.to_string());
        }
    }));
}

/// Whether the code that panicked, or called the standard library's function that did, is in this repository.
fn is_own(panic: &PanicHookInfo) -> bool {
    let file = panic.location().map_or("", |location| location.file());
    let folders = [
        "crates/masks/src/",
        "crates/pixels/src/",
        "crates/formats/src/",
        "crates/job/src/",
        // Of these checks: cargo-fuzz builds them in the folder above.
        "checks/src/",
        "checks/tests/",
    ];
    folders.iter().any(|folder| file.contains(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_panics_count_though_they_are_caught_and_libraries_do_not() {
        let own = || assert!(catch_unwind(|| panic!("fixed")).is_err());
        assert!(catch_unwind(|| guarded(own)).is_err());
        let foreign = || bytes::Bytes::from_static(b"ab").slice(3..);
        guarded(|| assert!(catch_unwind(foreign).is_err()));
    }
}
