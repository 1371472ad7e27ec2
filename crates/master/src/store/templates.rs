//! Templates and their versions.

use gaffer_domain::document::Language;
use gaffer_domain::template::{MAX_TEMPLATES, MAX_VERSIONS, TemplateText};
use gaffer_domain::{ProjectId, Time};
use sqlx::FromRow;

use super::{ReadStore, StoreError, WriteStore};
use crate::records::{Template, TemplateVersion, VersionEntry};

/// What became of a version that was to be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Saved {
    /// It is a new version with this number.
    Version(u32),
    /// The latest version, which has this number, says the same already.
    Unchanged(u32),
    /// The project has as many templates as it may have.
    TooMany,
}

#[derive(FromRow)]
struct TemplateRow {
    name: String,
    latest: i32,
    versions: i64,
    created_by: String,
    created_at: Time,
}

#[derive(FromRow)]
struct VersionRow {
    version: i32,
    language: String,
    content: String,
    created_by: String,
    created_at: Time,
}

impl WriteStore {
    /// Saves a version of a template, and the template if it is new. The oldest version goes if there are too many.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn template_save(
        &self,
        project: ProjectId,
        name: &str,
        text: &TemplateText,
        saved_by: &str,
    ) -> Result<Saved, StoreError> {
        let mut tx = self.begin().await?;
        let live: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM templates WHERE project_id = $1 AND NOT deleted AND name <> $2",
        )
        .bind(project.0)
        .bind(name)
        .fetch_one(&mut *tx)
        .await?;
        if live >= MAX_TEMPLATES as i64 {
            return Ok(Saved::TooMany);
        }
        // The row is locked until the commit: two versions never get one number.
        let (template, latest): (i64, i32) = sqlx::query_as(
            "INSERT INTO templates AS t (project_id, name) VALUES ($1, $2) \
             ON CONFLICT (project_id, name) DO UPDATE SET name = t.name RETURNING id, latest",
        )
        .bind(project.0)
        .bind(name)
        .fetch_one(&mut *tx)
        .await?;
        let is_same: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM template_versions WHERE template_id = $1 AND version = $2 \
                 AND language = $3 AND content = $4)",
        )
        .bind(template)
        .bind(latest)
        .bind(text.language.word())
        .bind(&text.text)
        .fetch_one(&mut *tx)
        .await?;
        if is_same {
            return Ok(Saved::Unchanged(latest.unsigned_abs()));
        }
        let version = latest + 1;
        sqlx::query(
            "INSERT INTO template_versions (template_id, version, language, content, created_by) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(template)
        .bind(version)
        .bind(text.language.word())
        .bind(&text.text)
        .bind(saved_by)
        .execute(&mut *tx)
        .await?;
        sqlx::query("UPDATE templates SET latest = $2, deleted = false WHERE id = $1")
            .bind(template)
            .bind(version)
            .execute(&mut *tx)
            .await?;
        sqlx::query("DELETE FROM template_versions WHERE template_id = $1 AND version <= $2")
            .bind(template)
            .bind(version - MAX_VERSIONS as i32)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Saved::Version(version.unsigned_abs()))
    }

    /// Deletes a template with its versions. False if there is none. As long as jobs name it, its row stays with the number of its
    /// latest version, which no version saved later gets.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn template_delete(&self, project: ProjectId, name: &str) -> Result<bool, StoreError> {
        let mut tx = self.begin().await?;
        let template: Option<i64> = sqlx::query_scalar(
            "UPDATE templates SET deleted = true WHERE project_id = $1 AND name = $2 AND NOT deleted RETURNING id",
        )
        .bind(project.0)
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(template) = template else { return Ok(false) };
        sqlx::query("DELETE FROM template_versions WHERE template_id = $1")
            .bind(template)
            .execute(&mut *tx)
            .await?;
        // This one, and those that jobs have named until now.
        sqlx::query(
            "DELETE FROM templates t WHERE project_id = $1 AND deleted AND NOT EXISTS ( \
                 SELECT FROM jobs j WHERE j.project_id = $1 AND j.template = t.name)",
        )
        .bind(project.0)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }
}

impl ReadStore {
    /// All templates of a project by their names.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn template_list(&self, project: ProjectId) -> Result<Vec<Template>, StoreError> {
        let rows: Vec<TemplateRow> = sqlx::query_as(
            "SELECT t.name, t.latest, v.created_by, v.created_at, \
                 (SELECT count(*) FROM template_versions o WHERE o.template_id = t.id) AS versions \
             FROM templates t JOIN template_versions v ON v.template_id = t.id AND v.version = t.latest \
             WHERE t.project_id = $1 AND NOT t.deleted ORDER BY t.name",
        )
        .bind(project.0)
        .fetch_all(&self.pool)
        .await?;
        let template = |row: TemplateRow| Template {
            name: row.name,
            version: row.latest.unsigned_abs(),
            versions: row.versions.unsigned_abs() as u32,
            saved_by: row.created_by,
            saved_at: row.created_at,
        };
        Ok(rows.into_iter().map(template).collect())
    }

    /// One version of a template; without a number the latest.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn template_version(
        &self,
        project: ProjectId,
        name: &str,
        version: Option<u32>,
    ) -> Result<Option<TemplateVersion>, StoreError> {
        let row: Option<VersionRow> = sqlx::query_as(
            "SELECT v.version, v.language, v.content, v.created_by, v.created_at \
             FROM templates t JOIN template_versions v ON v.template_id = t.id AND v.version = COALESCE($3, t.latest) \
             WHERE t.project_id = $1 AND t.name = $2 AND NOT t.deleted",
        )
        .bind(project.0)
        .bind(name)
        .bind(version.map(|version| i32::try_from(version).unwrap_or(i32::MAX)))
        .fetch_optional(&self.pool)
        .await?;
        row.map(|row| {
            let language = Language::named(&row.language)
                .ok_or_else(|| StoreError::Unreadable(format!("{:?} is not a language", row.language)))?;
            Ok(TemplateVersion {
                version: row.version.unsigned_abs(),
                text: TemplateText { language, text: row.content },
                saved_by: row.created_by,
                saved_at: row.created_at,
            })
        })
        .transpose()
    }

    /// The versions of a template, latest first; empty if there is no such template.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn template_versions(
        &self,
        project: ProjectId,
        name: &str,
    ) -> Result<Vec<VersionEntry>, StoreError> {
        let rows: Vec<(i32, String, Time)> = sqlx::query_as(
            "SELECT v.version, v.created_by, v.created_at \
             FROM templates t JOIN template_versions v ON v.template_id = t.id \
             WHERE t.project_id = $1 AND t.name = $2 AND NOT t.deleted ORDER BY v.version DESC",
        )
        .bind(project.0)
        .bind(name)
        .fetch_all(&self.pool)
        .await?;
        let entry = |(version, saved_by, saved_at): (i32, String, Time)| VersionEntry {
            version: version.unsigned_abs(),
            saved_by,
            saved_at,
        };
        Ok(rows.into_iter().map(entry).collect())
    }
}
