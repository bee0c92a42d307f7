//! Leases in every order.
use super::*;

const COOL_DOWN: Duration = Duration::from_secs(30);

fn id(container: usize) -> AttachmentId {
    AttachmentId { container_id: format!("c{container}"), ifname: "eth0".into() }
}

fn leases(cidrs: &[&str]) -> Leases {
    let mut leases = Leases::new(COOL_DOWN);
    leases.set_pod_cidrs(&cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect::<Vec<_>>());
    leases
}

fn reserve(leases: &mut Leases, container: usize, now: u64) -> Result<Vec<IpAddr>, LeaseError> {
    leases.reserve(&id(container), &ObjectName::new("ns", "pod"), "uid", Duration::from_secs(now))
}

#[test]
fn addresses_are_counted_by_family_and_state() {
    let mut leases = leases(&["10.0.0.0/24", "fd00::/64"]);
    reserve(&mut leases, 1, 0).unwrap();
    reserve(&mut leases, 2, 0).unwrap();
    leases.release(&id(1), Duration::from_secs(10)).unwrap();
    leases.block(["10.0.0.77".parse().unwrap()]);
    let [v4, v6] = leases.counted(Duration::from_secs(11)).0;
    assert_eq!(v4, CountedFamily { capacity: 253, leased: 1, resting: 1, foreign: 1 });
    assert_eq!((v6.leased, v6.resting, v6.foreign), (1, 1, 0));
    assert!(v6.capacity > 1 << 60);
    let [v4, _] = leases.counted(Duration::from_secs(41)).0;
    assert_eq!(v4.resting, 0);
}

#[test]
fn a_pod_gets_one_address_of_each_family_the_node_has() {
    let mut leases = leases(&["10.0.0.0/24", "fd00::/64"]);
    let ips = reserve(&mut leases, 1, 0).unwrap();
    assert_eq!(ips, ["10.0.0.2", "fd00::2"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    assert_eq!(reserve(&mut leases, 1, 0).unwrap(), ips, "repeating returns the same");
    assert_ne!(reserve(&mut leases, 2, 0).unwrap(), ips);
}

#[test]
fn a_second_range_of_a_family_is_used_when_the_first_is_full() {
    let mut leases = leases(&["10.0.0.0/29", "10.9.0.0/29"]);
    let ips: Vec<_> = (0..10).map(|container| reserve(&mut leases, container, 0).unwrap()[0]).collect();
    assert_eq!(ips.iter().filter(|ip| ip.to_string().starts_with("10.9.")).count(), 5);
    let error = reserve(&mut leases, 99, 0).unwrap_err();
    assert_eq!(error.to_string().matches("/29").count(), 2, "{error}");
}

#[test]
fn an_address_is_not_reused_before_it_has_cooled_down() {
    let mut leases = leases(&["10.0.0.0/29"]);
    for container in 0..5 {
        reserve(&mut leases, container, 0).unwrap();
    }
    for container in [3, 1] {
        leases.release(&id(container), Duration::from_secs(100)).unwrap();
    }
    leases.release(&id(4), Duration::from_mins(1)).unwrap();
    let mut next = |container, now| reserve(&mut leases, container, now).unwrap()[0].to_string();
    assert_eq!(next(8, 120), "10.0.0.6", "it has rested for a minute");
    assert_eq!(next(9, 129), "10.0.0.3", "there is no other: the first of those that rest");
}

#[test]
fn forty_pods_come_and_go_on_fourteen_addresses_one_after_the_other() {
    let mut leases = leases(&["10.0.0.0/28"]);
    let mut last = BTreeMap::new();
    for container in 0..40 {
        let address = reserve(&mut leases, container, 0).unwrap()[0];
        if let Some(before) = last.insert(address, container) {
            assert!(container - before >= 13, "{address} rested for {} pods only", container - before);
        }
        leases.release(&id(container), Duration::from_millis(container as u64)).unwrap();
    }
}

#[test]
fn what_others_have_is_not_handed_out_even_when_there_is_nothing_else() {
    let of = |hosts: &[u8]| -> BTreeSet<IpAddr> {
        hosts.iter().map(|host| IpAddr::from([10, 0, 0, *host])).collect()
    };
    let of_pods = |hosts: &[u8]| -> BTreeMap<IpAddr, ObjectName> {
        of(hosts).into_iter().map(|address| (address, ObjectName::new("ns", "other"))).collect()
    };
    let mut leases = leases(&["10.0.0.0/29"]);
    leases.block([IpAddr::from([10, 0, 0, 2])]);
    leases.set_others(Others { pods: of_pods(&[2, 3]), host_local: of(&[3, 4, 200]) });
    assert_eq!(reserve(&mut leases, 1, 0).unwrap()[0].to_string(), "10.0.0.5");
    assert_eq!(reserve(&mut leases, 2, 0).unwrap()[0].to_string(), "10.0.0.6");
    let expected =
        LeaseError::Exhausted { pools: "10.0.0.0/29".into(), leased: 2, of_others: 2, host_local: 1 };
    assert_eq!(reserve(&mut leases, 3, 0), Err(expected));
    leases.release(&id(1), Duration::from_secs(1));
    leases.set_others(Others { pods: of_pods(&[5]), ..Others::default() });
    assert_eq!(reserve(&mut leases, 3, 2).unwrap()[0].to_string(), "10.0.0.3", "another pod has it by now");
}

#[test]
fn after_a_boot_each_pod_finds_the_address_that_its_object_still_shows() {
    let mut leases = leases(&["10.0.0.0/29"]);
    let pods: Vec<_> = (2..=6).map(|host| ObjectName::new("ns", format!("p{host}"))).collect();
    let addresses = (2..=6).map(|host| IpAddr::from([10, 0, 0, host]));
    leases.set_others(Others { pods: addresses.zip(pods.clone()).collect(), ..Others::default() });
    for (host, pod) in (2..=6_u8).zip(&pods).rev() {
        let ips = leases.reserve(&id(host.into()), pod, "uid", Duration::ZERO).unwrap();
        assert_eq!(ips, [IpAddr::from([10, 0, 0, host])]);
    }
    assert!(reserve(&mut leases, 9, 0).is_err());
}

#[test]
fn the_oldest_released_address_is_reused_last_while_others_are_fresh() {
    let mut leases = leases(&["10.0.0.0/24"]);
    let first = reserve(&mut leases, 0, 0).unwrap();
    leases.release(&id(0), Duration::ZERO);
    assert_ne!(reserve(&mut leases, 1, 1000).unwrap(), first);
}

#[test]
fn an_address_that_lives_without_a_lease_is_not_handed_out() {
    let mut leases = leases(&["10.0.0.0/29"]);
    leases.block((2..=5).map(|host| IpAddr::from([10, 0, 0, host])));
    assert_eq!(reserve(&mut leases, 1, 0).unwrap()[0].to_string(), "10.0.0.6");
    assert!(reserve(&mut leases, 2, 0).is_err());
    leases.block([]);
    assert!(reserve(&mut leases, 2, 0).is_ok());
}

fn interface() -> Interface {
    Interface { host_ifname: "mr1".into(), host_ifindex: 7, host_mac: [1; 6], pod_mac: [2; 6], netns: None }
}

#[test]
fn only_reservations_are_abandoned() {
    let mut leases = leases(&["10.0.0.0/24"]);
    reserve(&mut leases, 1, 0).unwrap();
    reserve(&mut leases, 2, 0).unwrap();
    let endpoint = leases.endpoint(&id(2), interface()).unwrap();
    leases.attach(endpoint);
    assert!(leases.abandoned(RESERVATION_LIFETIME).is_empty());
    assert_eq!(leases.abandoned(RESERVATION_LIFETIME + Duration::from_secs(1)), [id(1)]);
}

#[test]
fn an_interface_without_reservation_is_refused() {
    let error = leases(&["10.0.0.0/24"]).endpoint(&id(1), interface()).unwrap_err();
    assert_eq!(error, LeaseError::NotReserved(id(1)));
}
