//! What operators see: tables, JSON, errors and exit codes.

use crate::system::{Fault, System, cellway, text};
use std::process::Stdio;

#[tokio::test]
async fn lists_are_tables_for_people_and_json_for_programs() {
    let system = System::start(Fault::Nothing).await;
    let output = system.cellway("cell list").await;
    let table = text(&output.stdout);
    let head: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(
        head,
        ["CELL", "KIND", "CONDITION", "VERSION", "TENANTS", "REQUESTS/S", "IN", "FLIGHT", "BUSY", "%", "ENDPOINTS"]
    );
    assert!(table.contains("cell-a  agent"), "{table}");
    assert!(output.stderr.is_empty(), "talk belongs to stderr, and there is none");

    let (code, cells) = system.cellway_json("cell list").await;
    assert_eq!((code, cells["items"][0]["load"]["busy_percent"].as_f64()), (0, Some(41.0)));
    for (line, shown) in [
        ("tenant list", "t1"),
        ("tenant show t1", "freeze budget   250 ms"),
        ("finding list", "cellway tenant move t1 --to cell-b"),
        ("lookup t1", "cell-a"),
        ("explain t1.cells.localhost", "1. t1 is the label"),
        ("host claim Shop.Example --tenant t1", "shop.example"),
        ("cell cordon cell-b", "cordoned"),
        ("cell open cell-b", "open"),
        ("cell create cell-c --kind origin --endpoint 127.0.0.1:1", "127.0.0.1:1"),
        ("tenant create zeta --cell cell-b", "zeta"),
        ("move list", "There are no moves."),
    ] {
        let output = system.cellway(line).await;
        assert!(output.status.success(), "{line}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains(shown), "{line}: {}", text(&output.stdout));
    }
}

#[tokio::test]
async fn a_move_returns_when_the_target_has_answered() {
    let system = System::start(Fault::Nothing).await;
    let (code, view) = system.cellway_json("tenant move t1 --to cell-b --cause test").await;
    assert_eq!(code, 0);
    assert!(["settling", "cleaning", "done"].contains(&view["state"].as_str().unwrap()), "{view}");
    assert_eq!(system.shared.state().tenants["t1"].view.cell, "cell-b");

    let output = system.cellway("tenant move t2 --to cell-a --wait=done").await;
    let (talk, data) = (text(&output.stderr), text(&output.stdout));
    assert!(talk.contains("t2: cell-b ▶ cell-a  copying  1.0 MiB of 2.0 MiB"), "{talk}");
    assert!(talk.contains("freeze 25 ms (30 predicted)"), "{talk}");
    assert!(data.contains("done"), "{data}");
}

#[tokio::test]
async fn a_move_that_need_not_be_waited_for_is_only_recorded() {
    let system = System::start(Fault::Nothing).await;
    let (code, view) = system.cellway_json("tenant move t1 --to cell-b --no-wait").await;
    assert_eq!((code, view["state"].as_str()), (0, Some("planned")));
}

#[tokio::test]
async fn an_undone_move_exits_with_its_reason() {
    let system = System::start(Fault::UndoMoves).await;
    let output = system.cellway("tenant move t1 --to cell-b").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let talk = text(&output.stderr);
    assert!(talk.contains("error: the move m-0 was undone: the copy stalled; t1 stays in cell-a"), "{talk}");
}

#[tokio::test]
async fn a_refusal_is_printed_with_what_the_api_says_about_it() {
    let system = System::start(Fault::Nothing).await;
    let output = system.cellway("tenant move fixed --to cell-b").await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "error: fixed cannot be moved\n  its cell is a plain origin, which has no gate to fence it\n"
    );
    let output = system.cellway("explain nobody.cells.localhost").await;
    assert_eq!(output.status.code(), Some(1), "the explanation is printed, but the host leads nowhere");
    assert!(text(&output.stdout).contains("nobody"));
}

#[tokio::test]
async fn wrong_usage_exits_with_2_and_an_absent_api_with_1() {
    let run = async |line: &str| cellway().args(line.split_whitespace()).output().await.unwrap();
    for line in ["tenant", "tenant show Not_An_Id", "cell create c --kind origin", "tenant list --api nonsense"] {
        assert_eq!(run(line).await.status.code(), Some(2), "{line}");
    }
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&format!("tenant list --api http://{unused}")).await;
    assert_eq!(output.status.code(), Some(1));
    let talk = text(&output.stderr);
    assert!(talk.starts_with(&format!("error: the API at http://{unused} cannot be reached")), "{talk}");
    assert!(talk.contains("cellway dev"), "{talk}");
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_error() {
    let system = System::start(Fault::Nothing).await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = cellway();
    command.args(["tenant", "list", "--api", &format!("http://{}", system.api)]);
    let output = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
}
