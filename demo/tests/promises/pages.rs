//! What a person sees in a browser.

use crate::stage::{Operator, Stage, exchange};

#[tokio::test]
async fn the_page_shows_tenant_cell_version_and_escapes_everything() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let hostile = br#"<script>alert("1")</script> & {{tenant}} 'x'"#;
    assert_eq!(stage.add("acme", "a", hostile).await.status, 201);

    let page = stage.get("acme", "/").await;
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().contains("text/html"));
    assert!(page.text.contains(r#"<h1 id="tenant">acme</h1>"#));
    assert!(page.text.contains(r#"<dd id="cell">cell-&lt;1&gt;</dd>"#));
    assert!(page.text.contains(r#"<dd id="version">1.2.3</dd>"#));
    assert!(page.text.contains(r#"<dd id="count">1</dd>"#));
    let shown = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; {{tenant}} &#39;x&#39;";
    assert!(page.text.contains(shown), "{}", page.text);
    assert!(!page.text.contains("<script>alert"));
    stage.stop().await;
}

#[tokio::test]
async fn the_page_shows_the_newest_twenty() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    for number in 1..=23 {
        let text = format!("note {number}.");
        let id = format!("n{number}");
        let added = stage.add("acme", &id, text.as_bytes()).await;
        assert_eq!(added.status, 201);
    }
    let page = stage.get("acme", "/").await.text;
    assert_eq!(page.matches("<li data-seq=").count(), 20);
    assert!(page.contains("note 23.") && page.contains("note 4."));
    assert!(!page.contains("note 3."));
    stage.stop().await;
}

#[tokio::test]
async fn the_form_stores_an_entry_and_leads_back() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let post = async |form: &str| {
        let head = format!(
            "POST / HTTP/1.1\r\nx-cellway-tenant: acme\r\ncontent-length: {}\r\n\
             content-type: application/x-www-form-urlencoded\r\n",
            form.len()
        );
        exchange(stage.address, &head, form.as_bytes()).await
    };
    for _ in 0..2 {
        let answer = post("text=gr%C3%BC%C3%9Fe+%26+more").await;
        assert_eq!(answer.status, 303);
        assert_eq!(answer.header("location"), Some("/"));
    }
    assert_eq!(post("text=+").await.status, 400);
    assert!((400..500).contains(&post("other=1").await.status));

    let page = stage.get("acme", "/").await.text;
    assert_eq!(page.matches("<p>grüße &amp; more</p>").count(), 2);
    stage.stop().await;
}

#[tokio::test]
async fn a_long_body_is_shown_by_its_beginning_without_a_broken_character() {
    let operator = Operator::new();
    operator.give_home("acme", "one");
    let stage = Stage::start(&operator);
    let text = format!("x{}", "ü".repeat(300));
    assert_eq!(stage.add("acme", "a", text.as_bytes()).await.status, 201);
    let page = stage.get("acme", "/").await.text;
    assert!(page.contains(&format!("<p>x{}</p>", "ü".repeat(127))));
    stage.stop().await;
}
