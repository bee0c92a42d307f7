//! The maps of the control plane, as the table in `dataplane_common::maps` has them: families aside, in the order of
//! writing, with what must be there before.
use dataplane_common::{
    for_each_map,
    maps::{MapId, Phase},
};

use crate::model::Family;

macro_rules! tables {
    (
        rendered { $(
            $(#[doc = $doc:literal])+
            $table:ident $version:literal: $phase:ident $(needs $need:ident)? $(used_by $($user:ident)+)?, [$max:expr, $flags:expr]
            { $($id:ident: $kind:ident<$key:ty, $value:ty>,)+ }
        )+ }
        others { $(
            $(#[doc = $other_doc:literal])+
            $other:ident $other_version:literal: $keeping:ident, [$other_max:expr, $other_flags:expr]
            { $($other_id:ident: $other_kind:ident<$other_key:ty, $other_value:ty>,)+ }
        )+ }
    ) => {
        /// A map that plans write, or the two of both families.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Table { $($(#[doc = $doc])+ $table),+ }

        impl Table {
            /// Every table, in the order in which one plan writes them.
            pub const ALL: &'static [Self] = &[$(Self::$table),+];

            /// The table of a map; none when it is no part of plans.
            #[must_use]
            pub const fn of(map: MapId) -> Option<Self> {
                match map {
                    $($(MapId::$id)|+ => Some(Self::$table),)+
                    $($(MapId::$other_id)|+)|+ => None,
                }
            }

            /// Its maps: one, or IPv4's and IPv6's.
            #[must_use]
            pub const fn maps(self) -> &'static [MapId] {
                match self { $(Self::$table => &[$(MapId::$id),+]),+ }
            }

            /// When it is written.
            #[must_use]
            pub const fn phase(self) -> Phase {
                match self { $(Self::$table => Phase::$phase),+ }
            }

            /// Whose entries must be there before its own refer to them.
            const fn needs(self) -> &'static [Self] {
                match self { $(Self::$table => &[$(Self::$need)?]),+ }
            }

            /// Whose entries refer to its own, which stay while those are not as they should be.
            const fn used_by(self) -> &'static [Self] {
                match self { $(Self::$table => &[$($(Self::$user),+)?]),+ }
            }
        }
    };
}

for_each_map!(tables);

impl Table {
    /// The map of a family.
    #[must_use]
    pub const fn map(self, family: Family) -> MapId {
        match (self.maps(), family) {
            ([_, v6, ..], Family::V6) => *v6,
            ([map, ..], _) => *map,
            ([], _) => unreachable!(),
        }
    }

    /// Every map, in the order in which one plan writes them.
    #[must_use]
    pub fn every_map() -> impl DoubleEndedIterator<Item = MapId> {
        Self::ALL.iter().flat_map(|table| table.maps().iter().copied())
    }

    /// The table's map of the family that another map is of.
    #[must_use]
    pub fn beside(self, map: MapId) -> MapId {
        let others = Self::of(map).map_or(&[][..], Self::maps);
        let place = others.iter().position(|other| *other == map).unwrap_or_default();
        self.maps()[place.min(self.maps().len() - 1)]
    }

    /// The maps whose missing entries an upsert to a map must wait for.
    pub fn needed_to_write(map: MapId) -> impl Iterator<Item = MapId> {
        let needed = Self::of(map).map_or(&[][..], Self::needs);
        needed.iter().map(move |table| table.beside(map))
    }

    /// The maps whose missing entries a delete from a map must wait for.
    pub fn needed_to_delete(map: MapId) -> impl Iterator<Item = MapId> {
        let users = Self::of(map).map_or(&[][..], Self::used_by);
        users.iter().flat_map(|table| table.maps().iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_another_table_comes_after_it_and_what_is_used_before() {
        for (place, table) in Table::ALL.iter().enumerate() {
            let earlier = &Table::ALL[..place];
            assert!(table.needs().iter().all(|needed| earlier.contains(needed)), "{table:?}");
            assert!(table.used_by().iter().all(|user| !earlier.contains(user)), "{table:?}");
            assert!(earlier.iter().all(|before| before.phase() <= table.phase()), "{table:?}");
        }
    }

    #[test]
    fn a_map_belongs_to_the_table_that_has_it() {
        for map in MapId::ALL {
            let has = |table: &&Table| table.maps().contains(map);
            assert_eq!(Table::of(*map), Table::ALL.iter().find(has).copied(), "{map:?}");
        }
        assert_eq!(Table::of(MapId::CT_EST_V4), None);
    }

    #[test]
    fn a_frontend_waits_for_the_backends_of_its_own_family() {
        let needed = |map| Table::needed_to_write(map).collect::<Vec<_>>();
        assert_eq!(needed(MapId::FRONTENDS_V4), [MapId::BACKENDS_V4]);
        assert_eq!(needed(MapId::FRONTENDS_V6), [MapId::BACKENDS_V6]);
        assert_eq!(needed(MapId::ENDPOINTS_V4), []);
        assert_eq!(needed(MapId::POLICY_EPOCH), []);
    }

    #[test]
    fn the_map_of_a_family_is_its_own_where_there_are_two() {
        assert_eq!(
            [Family::V4, Family::V6].map(|family| Table::Routes.map(family)),
            [MapId::ROUTES_V4, MapId::ROUTES_V6]
        );
        assert_eq!([Family::V4, Family::V6].map(|family| Table::Policies.map(family)), [MapId::POLICIES; 2]);
    }
}
