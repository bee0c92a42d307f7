//! What the audience sees.
use std::io::IsTerminal as _;

use harness::topology::{Pod, Topology};

use crate::cast::Cast;

const WIDTH: usize = 100;
const BAR: usize = 40;

/// The screen.
pub(crate) struct Show {
    colours: bool,
}

impl Show {
    pub(crate) fn new() -> Self {
        Self { colours: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() }
    }

    /// Begins a part.
    pub(crate) fn title(&self, title: &str) {
        let line = "─".repeat(WIDTH.saturating_sub(title.chars().count() + 4));
        println!("\n{}", self.painted("1;36", &format!("── {title} {line}")));
    }

    /// Something to show as it is: YAML, the output of a command.
    pub(crate) fn quote(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("    {}", self.painted("2", line));
        }
    }

    /// A command and what it printed.
    pub(crate) fn command(&self, command: &str, output: &str) {
        println!("  {} {}", self.painted("1;33", "$"), self.painted("1", command));
        self.quote(output);
    }

    /// Something that is as it should be.
    pub(crate) fn good(&self, text: &str) {
        println!("  {} {text}", self.painted("1;32", "✓"));
    }

    /// Something that was stopped, as it should be.
    pub(crate) fn stopped(&self, text: &str) {
        println!("  {} {text}", self.painted("1;31", "✗"));
    }

    /// A share of a whole, as a bar.
    pub(crate) fn share(&self, name: &str, place: &str, count: usize, whole: usize) {
        let length = (count * BAR * 2).div_ceil(whole.max(1)).min(BAR);
        let bar = format!("{:<BAR$}", "█".repeat(length));
        println!("    {name:<12} {place:<8} {} {count:>4}", self.painted("32", &bar));
    }

    /// How to look around in what is left up.
    pub(crate) fn left_up(&self, topology: &Topology, cast: &Cast) {
        self.title("Everything is still up");
        say("Into a pod (its network and its cgroup, as the container runtime would):");
        for pod in cast.pods() {
            println!(
                "  {:<18} {}",
                format!("{}/{}", pod.namespace(), pod.name()),
                self.painted("1", &entry(pod))
            );
        }
        println!("\nFrom a pod, ask the service or the database who answers:");
        for (what, address) in [("web", cast.web.v4), ("database", cast.database_service.v4)] {
            let port = if what == "web" { crate::cast::WEB_PORT } else { crate::cast::DATABASE_PORT };
            let ask = format!("exec 3<>/dev/tcp/{address}/{port}; echo >&3; head -n 1 <&3");
            println!("  {what:<18} {}", self.painted("1", &ask));
        }
        println!("\nThe command line of each node:");
        for node in topology.nodes() {
            let (bpffs, runtime) = (node.bpffs().display(), node.runtime_dir());
            let options = format!("--bpffs {bpffs} --runtime-dir {}", runtime.display());
            println!(
                "  {:<18} {}",
                node.spec().name,
                self.painted("1", &format!("target/debug/millrace {options} status"))
            );
        }
        println!("\nChange the cluster by changing the YAML; each node has a folder:");
        for node in topology.nodes() {
            println!(
                "  {:<18} {}",
                node.spec().name,
                self.painted("1", &node.manifests().display().to_string())
            );
        }
        println!("\nRemove everything with: {}", self.painted("1", "cargo xtask demo --remove"));
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{colour}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// A shell in a pod. The cgroup comes first: services are balanced where sockets connect.
fn entry(pod: &Pod) -> String {
    let procs = pod.cgroup().path().join("cgroup.procs");
    format!("sh -c 'echo $$ > {}; exec ip netns exec {} bash'", procs.display(), pod.netns().name())
}

/// A paragraph.
pub(crate) fn say(text: &str) {
    let mut line = String::new();
    for word in text.split_whitespace() {
        if line.chars().count() + word.chars().count() + 1 > WIDTH {
            println!("{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    println!("{line}");
}
