//! Filters of the `clsact` qdisc: what guards a new pod until its links do.
//!
//! To attach a tcx link the kernel waits until nobody reads the interface's old list of programs (`synchronize_rcu` in
//! `tcx_entry_sync`, v6.6, e420bed02507), and nothing else that concerns interfaces goes on meanwhile: 12 to 20 ms,
//! twice for each pod. A filter takes 0.1 ms. So a new pod starts with filters, and gets its links when no pod is being
//! added. A tcx program runs before the filters and its verdict is final, so each packet meets exactly one of the two.
use std::mem;

use aya::programs::{
    ProgramError,
    tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle},
};

use super::{
    attach::{AttachError, Interface},
    hook::PodHook,
    load::Programs,
};

const PRIORITY: u16 = 1;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// Attaches both programs. What was attached stays when the rest cannot be: [`remove`] takes it away.
pub(super) fn attach(programs: &mut Programs, pod: Interface<'_>) -> Result<(), AttachError> {
    // It may be there already; where it cannot be, attaching a filter fails and says so.
    if let Err(error) = tc::qdisc_add_clsact(pod.ifname) {
        tracing::debug!("clsact on {}: {error}", pod.ifname);
    }
    for hook in PodHook::ALL {
        let program = hook.program();
        let classifier = programs.classifier(program)?;
        let options =
            TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
        let attached = classifier.attach_with_options(pod.ifname, hook.direction(), options);
        let link =
            attached.and_then(|id| classifier.take_link(id)).map_err(|error| failed(program, pod, error))?;
        // Dropping it would detach the program.
        mem::forget(link);
    }
    // aya finds the interface by its name; the name may have moved to another interface since the plugin looked.
    match nix::net::if_::if_nametoindex(pod.ifname) {
        Ok(found) if found != pod.ifindex => {
            remove(pod.ifname);
            let (ifname, expected) = (pod.ifname.to_owned(), pod.ifindex);
            Err(AttachError::ReplacedInterface { ifname, expected, found })
        }
        // An interface that is gone needs no programs.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Removes the filters of an interface that has its links, or will have them at once. They may never have been there;
/// one that stays runs no more.
pub(super) fn remove(ifname: &str) {
    for hook in PodHook::ALL {
        let Ok(link) = SchedClassifierLink::attached(ifname, hook.direction(), PRIORITY, HANDLE, None) else {
            return;
        };
        // Dropping it detaches the program.
        drop(link);
    }
}

fn failed(program: &'static str, pod: Interface<'_>, source: ProgramError) -> AttachError {
    AttachError::Attach { program, target: pod.ifname.to_owned(), source: Box::new(source) }
}
