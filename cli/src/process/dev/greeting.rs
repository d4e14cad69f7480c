//! What `dev` says when everything is ready.

use super::layout::Layout;
use cellway_core::hostname::Hostname;

/// What runs where, and three things to try next.
pub(super) fn text(base: &Hostname, layout: &Layout) -> String {
    let port = layout.router().port();
    let mut text = format!(
        "cellway dev is ready. State: {}\n\n  router     http://*.{base}:{port}   (metrics http://{}/metrics)\n  API        http://{}\n",
        layout.dir().display(),
        layout.router_admin(),
        layout.api(),
    );
    for (index, cell) in layout.cell_names().iter().enumerate() {
        let (gate, app) = (layout.gate(index), layout.app(index));
        text.push_str(&format!("  {cell:<10} gate {gate}, app {app}\n", cell = cell.as_str()));
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
