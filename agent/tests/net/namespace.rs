//! A network namespace that lives as long as one thread.
use std::{future::Future, process::Command, thread};

use agent::net::Netlink;
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Builder;

/// Runs a test in a namespace of its own, which ends with it.
pub(crate) fn inside<F: Future<Output = ()>>(test: impl FnOnce(Netlink) -> F + Send) {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("this test needs root to make a network namespace");
            // Its threads would be in the namespace the test started in: it must have none.
            let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let netlink = Netlink::open().expect("a netlink socket");
                test(netlink).await;
            });
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Runs `ip` in the namespace of this thread and returns what it prints.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("running ip");
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}
