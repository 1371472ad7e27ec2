//! Begins eras of history faster than a master would.

use sqlx::{Connection as _, PgConnection};

/// Opens further eras of history, each when the one before has been there for a moment, as the master's loop would.
pub async fn open_eras(database_url: &str, more: i64) {
    let mut database = PgConnection::connect(database_url).await.unwrap();
    for _ in 0..more {
        sqlx::raw_sql(
            "BEGIN; SELECT pg_advisory_xact_lock(x'67616666657265'::bigint); \
             UPDATE eras SET closed_at = now() WHERE opened_at IS NOT NULL AND closed_at IS NULL; \
             UPDATE eras SET opened_at = now(), first_job = (SELECT last_value + is_called::int FROM jobs_id_seq) \
                 WHERE number = (SELECT min(number) FROM eras WHERE opened_at IS NULL); \
             SELECT make_era(max(number) + 1) FROM eras; \
             SELECT setval('live_tasks_id_seq', first_task(max(number)), false) FROM eras WHERE opened_at IS NOT NULL; \
             COMMIT",
        )
        .execute(&mut database)
        .await
        .unwrap();
    }
    database.close().await.unwrap();
}
