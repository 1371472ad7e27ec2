//! Templates and their versions.

use gaffer_domain::Time;
use gaffer_domain::template::TemplateText;

/// A template without what its versions say.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub name: String,
    /// Number of the latest version.
    pub version: u32,
    /// How many versions there are.
    pub versions: u32,
    /// Who saved the latest version.
    pub saved_by: String,
    pub saved_at: Time,
}

/// One version of a template.
#[derive(Debug, Clone, PartialEq)]
pub struct TemplateVersion {
    pub version: u32,
    pub text: TemplateText,
    pub saved_by: String,
    pub saved_at: Time,
}

/// One version of a template without what it says.
#[derive(Debug, Clone, PartialEq)]
pub struct VersionEntry {
    pub version: u32,
    pub saved_by: String,
    pub saved_at: Time,
}
