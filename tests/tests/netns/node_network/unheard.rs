//! Changes that the agent is not told of, or whose notifications are lost.
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use harness::{eventually::eventually, kernel};

use super::{Stage, host_side};

#[test]
fn forwarding_that_is_switched_off_is_found_by_the_look_that_nobody_asks_for() -> Result<()> {
    /// Between two looks, and some.
    const LEVEL: Duration = Duration::from_secs(45);
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.grow_up()?;
    let switches = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
    switches.iter().try_for_each(|switch| stage.netns().sysctl(&[(*switch, "0")]))?;
    let begun = Instant::now();
    for switch in switches {
        eventually(format!("{switch} is on"), LEVEL, || {
            let path = Path::new("/proc/sys/net").join(switch);
            let value = stage.netns().run(|| fs::read_to_string(path))??;
            ensure!(value.trim() == "1", "it is {value}");
            Ok(())
        })?;
    }
    println!("forwarding was switched off: it is on after {:?}", begun.elapsed());
    stage.flows_again("forwarding was switched off")?;
    stage.topology.close()
}

#[test]
fn nothing_is_missed_in_a_storm_of_links() -> Result<()> {
    const PAIRS: usize = 200;
    kernel::require(kernel::NETNS);
    let stage = Stage::build()?;
    stage.grow_up()?;
    let ifname = host_side(&stage.near)?;
    // Named like those of pods, which are no reason to look at anything.
    let add = |number| format!("link add mrs{number} type veth peer name mrp{number}\n");
    let delete = |number| format!("link del mrs{number}\n");
    let made: String = (0..PAIRS).map(add).collect();
    let gone: String = (0..PAIRS).map(delete).collect();
    // An agent that does not read meanwhile hears of the first ones, and that it lost the rest.
    stage.node().pause_agent();
    stage.netns().ip(&made)?;
    for ip in stage.near.ips() {
        stage.netns().ip(&format!("route del {ip} dev {ifname}\nneigh del {ip} dev {ifname}\n"))?;
    }
    for cidr in stage.far_cidrs() {
        stage.netns().ip(&format!("route del {cidr}\n"))?;
    }
    stage.node().resume_agent();
    stage.flows_again("changes in a storm of links")?;
    ensure!(stage.node().log().contains("than were read in time"), "nothing was lost: make the storm larger");
    // One that reads, while they go.
    std::thread::scope(|scope| {
        let going = scope.spawn(|| stage.netns().ip(&gone));
        while !going.is_finished() {
            for ip in stage.near.ips() {
                // It may not be back yet.
                let _gone = stage.netns().ip(&format!("route del {ip} dev {ifname}\n"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        going.join().expect("no panic")
    })?;
    stage.flows_again("changes while many links go")?;
    stage.is_ready()?;
    stage.topology.close()
}
