//! DEL: the interface goes, its addresses are freed. What is gone already is no error.
use agent_api::{Attachment, pending};

use super::{host_link, is_of, open_host, refused, routing};
use crate::{
    agent::Agent,
    config::NetConf,
    environment::Environment,
    kernel::Netlink,
    netns::Netns,
    spec::{Code, Error},
};

pub(crate) fn del(environment: &Environment, conf: &NetConf) -> Result<(), Error> {
    let attachment = environment.attachment()?;
    // A namespace that is gone, or is none, holds no interface of ours.
    let netns = environment.netns().and_then(|path| Netns::open(&path).ok());
    delete_interface(&attachment, netns.as_ref())?;
    // Whatever is left in a pod that goes away keeps no address from being freed.
    let forgotten = netns.map_or(Ok(()), |netns| forget_rules(&attachment, &netns));
    release(conf, &attachment).and(forgotten)
}

fn forget_rules(attachment: &Attachment, netns: &Netns) -> Result<(), Error> {
    let forgotten = Netlink::open_in(netns).and_then(|mut pod| routing::forget(&mut pod, &attachment.ifname));
    let what = format!("cannot delete the rules of the interface {} in the pod", attachment.ifname);
    forgotten.map_err(|cause| refused(what, &cause))
}

/// Deletes the pair by its host side or, when that has another name, by its pod side.
fn delete_interface(attachment: &Attachment, netns: Option<&Netns>) -> Result<(), Error> {
    let mut host = open_host()?;
    if let Some(link) = host_link(&mut host, attachment)? {
        let what = format!("cannot delete the host interface {}", link.name);
        return host.delete(link.index).map_err(|cause| refused(what, &cause));
    }
    let Some(netns) = netns else { return Ok(()) };
    let what = format!("cannot delete the interface {} in the pod", attachment.ifname);
    let delete = || {
        let mut pod = Netlink::open_in(netns)?;
        // The name alone proves nothing: after an ADD that failed because of it, it is another plugin's.
        match pod.link(&attachment.ifname)? {
            Some(link) if is_of(&link, attachment) => pod.delete(link.index),
            _ => Ok(()),
        }
    };
    delete().map_err(|cause| refused(what, &cause))
}

/// Tells the agent now or, when it does not answer, when it is back.
pub(super) fn release(conf: &NetConf, attachment: &Attachment) -> Result<(), Error> {
    let Err(away) = Agent::new(conf).detach(attachment) else { return Ok(()) };
    pending::leave(&conf.state_dir, attachment).map(drop).map_err(|cause| {
        Error::new(
            Code::TryAgain,
            format!(
                "the addresses of container {} stay reserved: the agent does not answer, and the detachment cannot be \
                 left for it in {}",
                attachment.container_id,
                conf.state_dir.display()
            ),
        )
        .and(&away.message)
        .because(&cause)
    })
}
