//! What `dev` says when everything is ready.

use super::layout::Layout;
use super::trust::Trust;
use cellway_core::hostname::Hostname;

/// What runs where, and three things to try next.
pub(super) fn text(base: &Hostname, layout: &Layout, trust: &Trust) -> String {
    let port = layout.router().port();
    let https = layout.https().port();
    let ca = trust.ca();
    let mut text = format!(
        "cellway dev is ready. State: {}\n\n  router     http://*.{base}:{port}   (metrics http://{}/metrics)\n  \
         HTTPS      https://*.{base}:{https}   (trust it with: curl --cacert {})\n  API        {}\n",
        layout.dir().display(),
        layout.router_admin(),
        ca.display(),
        trust.api(layout),
    );
    for (index, cell) in layout.cell_names().iter().enumerate() {
        let (gate, app) = (layout.gate(index), layout.app(index));
        text.push_str(&format!("  {cell:<10} gate {gate}, app {app}\n", cell = cell.as_str()));
    }
    if trust.is_mutual {
        let dir = trust.dir().display();
        text.push_str(&format!(
            "\nEvery hop has TLS. For commands in another terminal:\n  \
             export CELLWAY_API={} CELLWAY_CA={} \\\n    \
             CELLWAY_CERTIFICATE={dir}/operator.crt CELLWAY_KEY={dir}/operator.key\n",
            trust.api(layout),
            ca.display(),
        ));
    }
    let flag = if port == 8080 { String::new() } else { format!(" --port-base {port}") };
    text.push_str(&format!(
        "\nTry next:\n  \
         1. open http://acme.{base}:{port} and add an entry\n  \
         2. in another terminal: cellway tenant move acme --to cell-b{flag}   (and watch the page)\n  \
         3. cellway soak --moves 50{flag}   (traffic and moves, every promise checked)\n\n\
         Ctrl-C stops everything; the state stays.\n"
    ));
    text
}
