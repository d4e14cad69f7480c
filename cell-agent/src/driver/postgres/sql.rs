//! Statements in one round trip: sent with the types of their values, they need not be prepared first. While a tenant is
//! frozen, it is round trips that it waits for.

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, GenericClient, Row};

/// A value whose type follows from Rust's.
pub(crate) trait Kind: ToSql + Sync {
    const TYPE: Type;
}

macro_rules! kinds {
    ($($rust:ty => $type:ident),* $(,)?) => { $(impl Kind for $rust { const TYPE: Type = Type::$type; })* };
}

kinds! {
    &str => TEXT,
    String => TEXT,
    bool => BOOL,
    i32 => INT4,
    i64 => INT8,
    serde_json::Value => JSONB,
    &serde_json::Value => JSONB,
}

impl<T: Kind> Kind for Option<T> {
    const TYPE: Type = T::TYPE;
}

/// The same, of any type.
pub(crate) trait Typed: Sync {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type);
}

impl<T: Kind> Typed for T {
    fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        (self, T::TYPE)
    }
}

/// What a connection or a transaction is asked.
pub(crate) trait Ask: GenericClient + Sync {
    /// All rows.
    fn rows(&self, sql: &str, values: &[&dyn Typed]) -> impl Future<Output = Result<Vec<Row>, Error>> + Send {
        async move {
            let values: Vec<_> = values.iter().map(|value| value.typed()).collect();
            self.query_typed(sql, &values).await
        }
    }

    /// The first row, if there is any.
    fn maybe(&self, sql: &str, values: &[&dyn Typed]) -> impl Future<Output = Result<Option<Row>, Error>> + Send {
        async move { Ok(self.rows(sql, values).await?.into_iter().next()) }
    }

    /// The one row of a statement that always has one.
    fn one(&self, sql: &str, values: &[&dyn Typed]) -> impl Future<Output = Result<Row, Error>> + Send {
        async move {
            let values: Vec<_> = values.iter().map(|value| value.typed()).collect();
            self.query_typed_one(sql, &values).await
        }
    }

    /// No rows.
    fn run(&self, sql: &str, values: &[&dyn Typed]) -> impl Future<Output = Result<(), Error>> + Send {
        async move { self.rows(sql, values).await.map(drop) }
    }
}

impl<C: GenericClient + Sync> Ask for C {}
