//! Names in Postgres: of schemas, roles and streams, and how they are quoted. No I/O.

use crate::config::{POSTGRES_TENANT, PostgresConfig};
use cellway_core::ids::{HomeId, MoveId, TenantId};

/// The longest name that Postgres keeps whole.
pub(crate) const NAME_MAX_BYTES: usize = 63;

/// What every publication, slot and subscription of ours begins with.
pub(crate) const STREAM_PREFIX: &str = "cellway_";

/// How much of an id stands in a name as it is; of a longer one its hash does.
const ID_IN_NAME_MAX_BYTES: usize = 40;

/// What a tenant's things are called in every cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TenantNames {
    pub(crate) schema: String,
    pub(crate) role: String,
}

impl TenantNames {
    /// The names, or the one that would be too long.
    pub(crate) fn of(config: &PostgresConfig, tenant: &TenantId) -> Result<Self, String> {
        let named = |pattern: &str| {
            let name = pattern.replace(POSTGRES_TENANT, tenant.as_str());
            if name.len() > NAME_MAX_BYTES { Err(name) } else { Ok(name) }
        };
        Ok(Self { schema: named(&config.schema)?, role: named(&config.role)? })
    }
}

/// What a stream of a move is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// From the source to the target.
    Forward,
    /// From the target, once it serves, to the old home.
    Back,
    /// Proves before the copy that the way back works.
    Canary,
}

/// What publication, slot and subscription of a stream are called. Two moves never share a name: ids have no `_`.
pub(crate) fn stream_name(move_id: &MoveId, purpose: Purpose) -> String {
    let purpose = match purpose {
        Purpose::Forward => 'f',
        Purpose::Back => 'b',
        Purpose::Canary => 'c',
    };
    format!("{STREAM_PREFIX}{}_{purpose}", in_name(move_id.as_str()))
}

/// Where a home stands that is kept, but is not the tenant's schema now.
pub(crate) fn parked_schema(tenant: &TenantId, home: &HomeId) -> String {
    let both = format!("{tenant}.{home}");
    format!("{STREAM_PREFIX}home_{}", hash(&both))
}

fn in_name(id: &str) -> String {
    if id.len() <= ID_IN_NAME_MAX_BYTES { id.replace('-', "_") } else { hash(id) }
}

fn hash(text: &str) -> String {
    // Longer than any id that is written out, so never one of those.
    blake3::hash(text.as_bytes()).to_hex().chars().take(ID_IN_NAME_MAX_BYTES + 2).collect()
}

/// A name as SQL takes it.
pub(crate) fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A schema and a name in it.
pub(crate) fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// A text as SQL takes it, whatever `standard_conforming_strings` says.
pub(crate) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// A value of a libpq connection string.
pub(crate) fn conninfo_value(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_quoted_is_never_more_than_a_name_or_a_text() {
        assert_eq!(ident(r#"a"; DROP TABLE b; --"#), r#""a""; DROP TABLE b; --""#);
        assert_eq!(literal(r"a'; \' b"), r"E'a''; \\'' b'");
        assert_eq!(conninfo_value(r"a' host=b\"), r"'a\' host=b\\'");
    }

    #[test]
    fn streams_of_two_moves_or_purposes_never_share_a_name() {
        let name = |id: &str, purpose| stream_name(&id.parse().unwrap(), purpose);
        let long = "m".repeat(64);
        let names = [
            name("m-1", Purpose::Forward),
            name("m-1", Purpose::Back),
            name("m-1-2", Purpose::Back),
            name(&long, Purpose::Canary),
            name(&long[..63], Purpose::Canary),
        ];
        let distinct: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), names.len());
        assert!(names.iter().all(|name| name.len() <= NAME_MAX_BYTES && name.starts_with(STREAM_PREFIX)), "{names:?}");
        let parked = parked_schema(&"acme".parse().unwrap(), &long.parse().unwrap());
        assert!(parked.len() <= NAME_MAX_BYTES);
    }
}
