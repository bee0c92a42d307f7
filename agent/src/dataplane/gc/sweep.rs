//! Going through the maps of flows, a bounded number of entries at a time.
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bpf_maps::{Cursor, Entry, Error};
use dataplane_common::{conntrack::CtState, maps::MapId, net::proto};

use super::{
    backends::{Backends, Standing},
    clock::Jiffies,
    expiry::{self, Circumstances},
    flow::{Family, Flow},
    mark::Marker,
    shares::{Refused, Shares},
};
use crate::dataplane::maps::Maps;

/// Entries per system call.
const CHUNK: usize = 4096;

/// What is to become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Keep,
    /// With its other half, if it has one.
    Delete,
    /// Keep the flow, but let the next SYN choose another backend.
    MarkBackendGone,
}

/// A question that was answered so long ago, and nothing since, is over: its client may use the port for another one, which
/// must not go to a backend that is about to leave.
const ANSWERED: Duration = Duration::from_secs(3);

/// The decision about one entry. `idle` is that of the whole flow, `standing` is what its backend is to the frontend which
/// the client asked for.
fn fate(flow: &Flow, idle: Duration, timeout: Duration, standing: Standing, is_established: bool) -> Fate {
    if idle > timeout {
        return Fate::Delete;
    }
    match (standing, flow.proto) {
        (Standing::Chosen, _) => Fate::Keep,
        (Standing::Kept | Standing::Gone, proto::TCP) if !asks_for_backend(flow) => Fate::Keep,
        // Its packets still reach a backend that is only leaving its service, and the end of the connection.
        (Standing::Kept | Standing::Gone, proto::TCP) => Fate::MarkBackendGone,
        // A conversation goes on.
        (Standing::Kept, _) if is_established || idle <= ANSWERED => Fate::Keep,
        // A datagram flow has no end that would let its client choose again.
        (Standing::Kept | Standing::Gone, _) => Fate::Delete,
    }
}

/// Whether it matters that a flow's backend is there: where a SYN chooses again already, it does not.
fn asks_for_backend(flow: &Flow) -> bool {
    flow.proto != proto::TCP || flow.state.backend_gone | flow.state.closed == 0
}

/// What a sweep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    pub(super) seen: usize,
    pub(super) deleted: usize,
    pub(super) marked: usize,
    /// How many entries each map had that is through.
    pub(super) counted: Vec<(MapId, usize)>,
    /// Pods that were refused flows, when the established ones have all been seen.
    pub(super) refused: Option<Vec<Refused>>,
}

/// A position in the maps of flows.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Which of [`TABLES`] comes next.
    table: usize,
    cursor: Cursor,
    /// Entries seen so far in the present table.
    count: usize,
    /// Whether the established flows of a family take more than three quarters of their map: IPv4, IPv6.
    crowded: [bool; 2],
    shares: Shares,
}

const TABLES: [(Family, bool); 4] =
    [(Family::V4, true), (Family::V6, true), (Family::V4, false), (Family::V6, false)];

/// Entries to delete, by own and partners' keys, and to mark.
#[derive(Debug, Default)]
struct Changes {
    here: Vec<Vec<u8>>,
    partners: Vec<Vec<u8>>,
    /// Keys of those to mark, with the backends that are gone.
    marked: Vec<(Vec<u8>, SocketAddr)>,
}

impl Sweep {
    /// Judges about `budget` entries. `true` when the last map is done, and the next call begins again.
    pub(super) fn advance(
        &mut self,
        maps: &Maps,
        marker: &Marker,
        now: Jiffies,
        removed: &HashSet<IpAddr>,
        budget: usize,
        swept: &mut Swept,
    ) -> Result<bool, Error> {
        let mut look = Look { maps, now, removed, backends: Backends::new(maps) };
        if self.table == 0 && matches!(self.cursor, Cursor::Start) {
            self.shares = Shares::begin(maps)?;
        }
        let mut left = budget;
        while left > 0 {
            let (family, is_established) = TABLES[self.table];
            let table = if is_established { family.established() } else { family.new_flows() };
            let (entries, next) = maps.get(table).dump_chunk(&self.cursor, left.min(CHUNK))?;
            left = left.saturating_sub(entries.len().max(1));
            swept.seen += entries.len();
            self.count += entries.len();
            let circumstances =
                Circumstances { is_established, is_crowded: is_established && self.crowded[family as usize] };
            let changes = judge(family, circumstances, &entries, &mut look, &mut self.shares)?;
            delete(maps, family, table, &changes, swept)?;
            mark(marker, family, &changes, swept)?;
            if let Some(cursor) = next {
                self.cursor = cursor;
                continue;
            }
            if is_established {
                self.crowded[family as usize] = self.count > table.spec().max_entries as usize / 4 * 3;
            }
            swept.counted.push((table, self.count));
            (self.cursor, self.count) = (Cursor::Start, 0);
            self.table = (self.table + 1) % TABLES.len();
            if is_established && !TABLES[self.table].1 {
                swept.refused = Some(self.shares.finish(maps)?);
            }
            if self.table == 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins again at the first map.
    pub(super) fn restart(&mut self) {
        (self.table, self.cursor, self.count) = (0, Cursor::Start, 0);
    }
}

/// What flows are judged by.
struct Look<'a> {
    maps: &'a Maps,
    now: Jiffies,
    removed: &'a HashSet<IpAddr>,
    backends: Backends<'a, Maps>,
}

fn judge(
    family: Family,
    circumstances: Circumstances,
    entries: &[Entry],
    look: &mut Look<'_>,
    shares: &mut Shares,
) -> Result<Changes, Error> {
    let mut changes = Changes::default();
    for (key, value) in entries {
        let Some(flow) = Flow::parse(family, key, value) else { continue };
        let partner_key = flow.partner_key(family);
        let fate = if !look.removed.is_empty() && flow.touches(|addr| look.removed.contains(addr)) {
            Fate::Delete
        } else {
            let standing = match flow.service().filter(|_| asks_for_backend(&flow)) {
                Some((frontend, backend)) => look.backends.standing(frontend, flow.proto, backend)?,
                None => Standing::Chosen,
            };
            let judged = |state: &CtState| {
                let (idle, timeout) =
                    (look.now.since(state.last_seen), expiry::timeout(flow.proto, state, circumstances));
                fate(&flow, idle, timeout, standing, circumstances.is_established)
            };
            match judged(&flow.state) {
                // Whether nothing came is for both halves to say.
                Fate::Delete => match find(look.maps, family, partner_key.as_deref())? {
                    Some(partner) => judged(&expiry::joined(&flow.state, &partner.state)),
                    None => Fate::Delete,
                },
                fate @ (Fate::Keep | Fate::MarkBackendGone) => fate,
            }
        };
        if circumstances.is_established {
            shares.note(look.maps, family, &flow, fate == Fate::Delete)?;
        }
        match fate {
            Fate::Keep => {}
            Fate::Delete => {
                changes.here.push(key.clone());
                changes.partners.extend(partner_key);
            }
            Fate::MarkBackendGone => {
                changes.marked.extend(flow.service().map(|(_, backend)| (key.clone(), backend)));
            }
        }
    }
    Ok(changes)
}

fn delete(
    maps: &Maps,
    family: Family,
    table: MapId,
    changes: &Changes,
    swept: &mut Swept,
) -> Result<(), Error> {
    swept.deleted += maps.get(table).delete_batch(&changes.here)?;
    for table in [family.established(), family.new_flows()] {
        swept.deleted += maps.get(table).delete_batch(&changes.partners)?;
    }
    Ok(())
}

fn mark(marker: &Marker, family: Family, changes: &Changes, swept: &mut Swept) -> Result<(), Error> {
    for (key, backend) in &changes.marked {
        swept.marked += usize::from(marker.mark(family, key, *backend)?);
    }
    Ok(())
}

fn find(maps: &Maps, family: Family, key: Option<&[u8]>) -> Result<Option<Flow>, Error> {
    let Some(key) = key else { return Ok(None) };
    for table in [family.established(), family.new_flows()] {
        if let Some(value) = maps.get(table).lookup(key)? {
            return Ok(Flow::parse(family, key, &value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::gc::flow::tests::client_half;

    const MINUTE: Duration = Duration::from_mins(1);

    fn flow(proto: u8, backend_gone: u8) -> Flow {
        let end = |text: &str| text.parse().unwrap();
        let (key, value) = client_half(end("10.0.0.2:1"), end("10.96.0.1:2"), end("10.0.1.3:3"), |state| {
            state.backend_gone = backend_gone;
        });
        let mut flow = Flow::parse(Family::V4, &key, &value).unwrap();
        flow.proto = proto;
        flow
    }

    #[test]
    fn an_idle_flow_is_deleted_and_a_busy_one_kept() {
        for proto in [proto::TCP, proto::UDP] {
            assert_eq!(fate(&flow(proto, 0), MINUTE * 2, MINUTE, Standing::Chosen, true), Fate::Delete);
            assert_eq!(fate(&flow(proto, 0), MINUTE, MINUTE, Standing::Chosen, true), Fate::Keep);
        }
    }

    #[test]
    fn a_datagram_flow_dies_with_its_backend() {
        assert_eq!(fate(&flow(proto::UDP, 0), Duration::ZERO, MINUTE, Standing::Gone, true), Fate::Delete);
    }

    #[test]
    fn a_conversation_stays_with_a_backend_that_leaves_and_an_answered_question_does_not() {
        let kept = |proto, idle, is_established| {
            fate(&flow(proto, 0), Duration::from_secs(idle), MINUTE, Standing::Kept, is_established)
        };
        for proto in [proto::UDP, proto::SCTP] {
            assert_eq!(kept(proto, 59, true), Fate::Keep);
            assert_eq!(kept(proto, 3, false), Fate::Keep, "its answer may be under way");
            assert_eq!(kept(proto, 4, false), Fate::Delete);
        }
        assert_eq!(kept(proto::TCP, 0, true), Fate::MarkBackendGone);
    }

    #[test]
    fn a_tcp_flow_without_its_backend_is_marked_once() {
        assert_eq!(
            fate(&flow(proto::TCP, 0), Duration::ZERO, MINUTE, Standing::Gone, true),
            Fate::MarkBackendGone
        );
        assert_eq!(fate(&flow(proto::TCP, 1), Duration::ZERO, MINUTE, Standing::Gone, true), Fate::Keep);
        assert_eq!(fate(&flow(proto::TCP, 1), MINUTE * 2, MINUTE, Standing::Gone, true), Fate::Delete);
        let mut closed = flow(proto::TCP, 0);
        closed.state.closed = 1;
        assert_eq!(fate(&closed, Duration::ZERO, MINUTE, Standing::Gone, true), Fate::Keep);
    }
}
