//! GC: what the runtime does not list goes, as with DEL.
use agent_api::interface::{HOST_IFNAME_PREFIX, Label};

use super::{del::release, open_host, refused, require_version};
use crate::{
    config::NetConf,
    spec::{Code, Error, Version},
};

pub(crate) fn gc(conf: &NetConf) -> Result<(), Error> {
    require_version(conf, "GC", Version::V1_1_0)?;
    let valid = conf.valid_attachments()?;
    let mut host = open_host()?;
    let links = host.links().map_err(|cause| refused("cannot list the host's interfaces", &cause))?;
    let stale =
        links.into_iter().filter(|link| link.name.starts_with(HOST_IFNAME_PREFIX)).filter_map(|link| {
            let label: Label = link.alias.parse().ok()?;
            // Attachments of other networks are not in the list, and none of this call's business.
            (label.network == conf.name && !valid.contains(&label.attachment))
                .then_some((link, label.attachment))
        });
    let mut errors = Vec::new();
    for (link, attachment) in stale {
        let what = format!("cannot delete the host interface {}", link.name);
        let deleted = host.delete(link.index).map_err(|cause| refused(what, &cause));
        errors.extend(deleted.and_then(|()| release(conf, &attachment)).err());
    }
    if errors.is_empty() {
        return Ok(());
    }
    let summary = format!("{} attachments could not be removed", errors.len());
    let sentences = errors.iter().map(|error| format!("{} ({})", error.message, error.details));
    Err(sentences.fold(Error::new(Code::Network, summary), |summary, sentence| summary.and(&sentence)))
}
