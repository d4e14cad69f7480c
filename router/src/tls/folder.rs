//! A folder of certificates in which a name leads to its files: nothing is listed or read before it is asked for.
//!
//! For the host `shop.example` these are looked for, in this order, and in the same way for `_.example`, whose `_`
//! stands for any one label:
//!
//! ```text
//! shop.example.crt            shop.example.key
//! shop.example/tls.crt        shop.example/tls.key
//! shop.example/fullchain.pem  shop.example/privkey.pem
//! ```

use cellway_api::certificate::{Certificate, CertificateError, Mark};
use std::path::{Path, PathBuf};

/// In a file's name, what stands for the `*` of a wildcard.
pub(crate) const WILDCARD_LABEL: &str = "_.";

/// Where certificates are.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

/// The two files of a certificate, as they were when they were read.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// `None` while a change could still hide behind the same marks.
    marks: Option<[Option<Mark>; 2]>,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BadFile {
    /// It, or its key, cannot be used.
    #[error(transparent)]
    Files(#[from] CertificateError),
    /// It is for other hosts than its name says.
    #[error("{} is for {names}, not for {wanted}", path.display())]
    Misfiled { path: PathBuf, names: String, wanted: String },
    /// It has ended, and the one in use has not.
    #[error("{} has ended already", path.display())]
    Ended { path: PathBuf },
}

impl Files {
    pub(crate) fn of(certificate: PathBuf, key: PathBuf) -> Self {
        let mut files = Self { certificate, key, marks: None };
        files.marks = files.settled_marks();
        files
    }

    fn marks(&self) -> [Option<Mark>; 2] {
        [Mark::of(&self.certificate), Mark::of(&self.key)]
    }

    fn settled_marks(&self) -> Option<[Option<Mark>; 2]> {
        let marks = self.marks();
        marks.iter().flatten().all(Mark::is_settled).then_some(marks)
    }

    pub(crate) fn are_unchanged(&self) -> bool {
        self.marks.is_some_and(|marks| marks == self.marks())
    }

    pub(crate) fn load(&self) -> Result<Certificate, CertificateError> {
        Certificate::from_files(&self.certificate, &self.key)
    }
}

/// Where the key of a certificate's file is.
type KeyBeside<'a> = &'a dyn Fn(&Path) -> PathBuf;

impl Folder {
    /// The files filed under `name`: a host in lower case, or one whose first label is `_`. Such a name has no slash
    /// and no empty label, so it leads nowhere but into the folder.
    pub(crate) fn files(&self, name: &str) -> Option<Files> {
        let Self(folder) = self;
        let layouts: [(PathBuf, KeyBeside<'_>); 3] = [
            (folder.join(format!("{name}.crt")), &|_| folder.join(format!("{name}.key"))),
            (folder.join(name).join("tls.crt"), &|certificate| certificate.with_file_name("tls.key")),
            (folder.join(name).join("fullchain.pem"), &|certificate| certificate.with_file_name("privkey.pem")),
        ];
        let found = layouts.into_iter().find(|(certificate, _)| certificate.exists());
        found.map(|(certificate, key)| {
            let key = key(&certificate);
            Files::of(certificate, key)
        })
    }
}

/// Checks that a certificate is for the name under which it is filed.
pub(crate) fn check_name(name: &str, files: &Files, certificate: &Certificate) -> Result<(), BadFile> {
    let facts = &certificate.facts;
    let right = match name.strip_prefix(WILDCARD_LABEL) {
        Some(parent) => facts.names.iter().any(|name| name.strip_prefix("*.") == Some(parent)),
        None => facts.covers(name),
    };
    if right {
        return Ok(());
    }
    let names = facts.names.join(", ");
    Err(BadFile::Misfiled { path: files.certificate.clone(), names, wanted: name.replacen('_', "*", 1) })
}
