//! Prints the reference of the metrics; `cargo xtask docs` writes it into `docs/reference/metrics.md`.
use agent_metrics::{AGENT, Family, KUBE_PROXY};

fn main() {
    println!(
        "# Metrics\n\n\
         <!-- Written by `cargo xtask docs` from agent-metrics. Change it there. -->\n\n\
         [operations.md](../operations.md) says which address and port serves what, and how to turn each off.\n\n\
         ## Of the agent\n\n\
         `/metrics` of `--metrics-address`. A node has at most 400 of these series: no label has values that a user can make.\n"
    );
    table(AGENT);
    println!(
        "\n## Of kube-proxy\n\n\
         `/metrics` of `--proxy-metrics-address`, while Millrace alone translates the services of the node: kube-proxy's names, where\n\
         they mean the same here. All are ALPHA in Kubernetes.\n"
    );
    table(KUBE_PROXY);
}

fn table(families: &[&Family]) {
    println!("| name | type | labels | what |");
    println!("|---|---|---|---|");
    for family in families {
        let labels: Vec<String> =
            family.labels.iter().map(|label| format!("`{}`: {}", label.name, label.values)).collect();
        println!(
            "| `{}` | {} | {} | {} |",
            family.name,
            family.kind.name(),
            labels.join("<br>"),
            family.help
        );
    }
}
