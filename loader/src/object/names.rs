//! Names of objects that live in a namespace.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Text;

/// Declares the name of a namespaced kind: a type of its own, so that a policy's name is never taken for a pod's.
macro_rules! namespaced {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name {
            /// `metadata.namespace`.
            pub namespace: Text,
            /// `metadata.name`.
            pub name: Text,
        }

        // === impl $name ===

        impl $name {
            /// From its two parts.
            pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
                Self { namespace: Text::common(namespace.as_ref()), name: Text::from(name.as_ref()) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.namespace, self.name)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let (namespace, name) = text.split_once('/').ok_or_else(|| format!("`{text}` is not namespace/name"))?;
                Ok(Self::new(namespace, name))
            }
        }
    };
}

namespaced! {
    /// Namespace and name of a pod; as text, and in JSON, `namespace/name`.
    PodName
}

namespaced! {
    /// Namespace and name of a NetworkPolicy; as text, and in JSON, `namespace/name`.
    PolicyName
}

namespaced! {
    /// Namespace and name of a Service; as text, and in JSON, `namespace/name`.
    ServiceName
}

namespaced! {
    /// Namespace and name of an EndpointSlice; as text, and in JSON, `namespace/name`.
    SliceName
}
