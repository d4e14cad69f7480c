//! The page that people see: who serves which tenant, the newest entries, a form, and live state.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, Form, State};
use axum::http::header;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Router, http::StatusCode};
use serde::Deserialize;

use crate::App;
use crate::entries::{self, Measured, now_ms};
use crate::requests::{Caller, Refusal};
use crate::tenant_file::Entry;

const TEMPLATE: &str = include_str!("page.html");
const SHOWN_ENTRIES: u32 = 20;
const FORM_MAX_BYTES: usize = 64 * 1024;
/// The page brings all it needs; scripts from elsewhere have no business in it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
    script-src 'unsafe-inline'; connect-src 'self' ws: wss:; form-action 'self'; base-uri 'none'";

pub(crate) fn routes() -> Router<App> {
    Router::new().route("/", get(page).post(submit)).layer(DefaultBodyLimit::max(FORM_MAX_BYTES))
}

async fn page(State(app): State<App>, caller: Caller) -> Result<Response, Refusal> {
    let (newest, count) = app
        .store
        .with(&caller.tenant, &caller.ticket, |file, _| Ok((file.newest(SHOWN_ENTRIES)?, file.count()?)))
        .await?;
    let last_seq = newest.first().map_or(0, |entry| entry.seq);
    let epoch = caller.epoch.map_or("–".to_owned(), |epoch| epoch.to_string());
    let rows: String = newest.iter().map(row).collect();
    let html = fill(TEMPLATE, |name| match name {
        "tenant" => escape(caller.tenant.as_str()),
        "cell" => escape(&app.name),
        "version" => escape(&app.version),
        "epoch" => escape(&epoch),
        "count" => count.to_string(),
        "last_seq" => last_seq.to_string(),
        "shown_entries" => SHOWN_ENTRIES.to_string(),
        "rows" => rows.clone(),
        _ => String::new(),
    });
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, Html(html)).into_response())
}

fn row(entry: &Entry) -> String {
    format!(
        "<li data-seq=\"{}\"><p>{}</p><small>#{} · {} · {} bytes</small></li>\n",
        entry.seq,
        escape(&entry.preview),
        entry.seq,
        escape(&entry.cell),
        entry.length,
    )
}

#[derive(Deserialize)]
struct NewText {
    text: String,
}

/// Without scripts the form comes here; with them the page sends to `/entries/{id}` itself.
async fn submit(
    State(app): State<App>,
    caller: Caller,
    form: Result<Form<NewText>, FormRejection>,
) -> Result<Response, Refusal> {
    let text = match form {
        Ok(Form(new)) => new.text,
        Err(refused) => return Ok(refused.into_response()),
    };
    if text.trim().is_empty() {
        return Ok((StatusCode::BAD_REQUEST, "the text is empty\n").into_response());
    }
    let mut body = Measured::default();
    body.add(text.as_bytes());
    // A hasher's keys are random for each process and differ from hasher to hasher.
    let random = RandomState::new().build_hasher().finish();
    let id = format!("form-{}-{random:016x}", now_ms());
    entries::store(&app, &caller, id, body).await?;
    Ok(Redirect::to("/").into_response())
}

/// Replaces each `{{name}}` once; what is filled in is not looked at again.
fn fill(template: &str, value: impl Fn(&str) -> String) -> String {
    let mut html = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some((before, (name, after))) =
        rest.split_once("{{").and_then(|(before, tail)| Some((before, tail.split_once("}}")?)))
    {
        html.push_str(before);
        html.push_str(&value(name));
        rest = after;
    }
    html.push_str(rest);
    html
}

fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}
