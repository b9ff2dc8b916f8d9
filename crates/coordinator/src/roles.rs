//! Who may ask the API for what: a role for whoever is at the other end, and the role that each
//! route wants. Pure.

use axum::http::Method;
use serde::{Deserialize, Serialize};
use transhume_model::{ClusterName, UserName};
use transhume_trust::Identity;

use crate::audit::Peer;

/// Each includes the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Sees everything.
    Viewer,
    /// Plans, moves, drains, and cancels.
    Mover,
    /// Everything else: clusters, VMs, operators' decisions.
    Admin,
}

impl Role {
    /// As configuration and messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Mover => "mover",
            Role::Admin => "admin",
        }
    }
}

/// Who has a role, and where.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoleSpec {
    /// The role.
    pub role: Role,
    /// Users, as their certificates name them (TCP).
    #[serde(default)]
    pub users: Vec<UserName>,
    /// User ids of processes (Unix socket).
    #[serde(default)]
    pub uids: Vec<u32>,
    /// The clusters that it is for; all, and what is of no cluster, where empty.
    #[serde(default)]
    pub clusters: Vec<ClusterName>,
}

/// All roles of a configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct Roles {
    specs: Vec<RoleSpec>,
    /// Whose process this is.
    own_uid: u32,
}

impl Roles {
    pub(crate) fn new(specs: Vec<RoleSpec>, own_uid: u32) -> Self {
        Self { specs, own_uid }
    }

    /// Whether processes of other users may have one.
    pub(crate) fn are_for_other_uids(&self) -> bool {
        self.specs.iter().any(|spec| !spec.uids.is_empty())
    }

    /// The highest one. What is seen is not divided by clusters: who has a role somewhere sees all.
    pub(crate) fn of(&self, peer: &Peer, cluster: Option<&str>) -> Option<Role> {
        let named: Box<dyn Fn(&RoleSpec) -> bool> = match peer {
            // They could read the journal as well.
            Peer::Process { uid, .. } if *uid == 0 || *uid == self.own_uid => return Some(Role::Admin),
            // Nobody proves anything, as the configuration wants it.
            Peer::Address(_) => return Some(Role::Admin),
            Peer::Certificate { identity, .. } => match identity {
                Identity::Coordinator => return Some(Role::Admin),
                // It tells about its host on its own link, and has nothing to ask here.
                Identity::Agent(_) => return None,
                Identity::User(_) if self.specs.is_empty() => return Some(Role::Viewer),
                Identity::User(user) => {
                    let user = user.clone();
                    Box::new(move |spec| spec.users.contains(&user))
                }
            },
            Peer::Process { uid, .. } => {
                let uid = *uid;
                Box::new(move |spec| spec.uids.contains(&uid))
            }
        };
        let holds = |spec: &RoleSpec| {
            let here = |name| spec.clusters.iter().any(|known| known.as_str() == name);
            match spec.clusters.is_empty() || cluster.is_some_and(here) {
                true => spec.role,
                false => Role::Viewer,
            }
        };
        self.specs.iter().filter(|spec| named(spec)).map(holds).max()
    }
}

/// The role that a route wants. What is not named here wants the highest.
pub(crate) fn wanted(method: &Method, route: &str) -> Role {
    if matches!(*method, Method::GET | Method::HEAD) {
        return Role::Viewer;
    }
    match route {
        "/v1/clusters/{name}/plan"
        | "/v1/clusters/{name}/migrations"
        | "/v1/migrations/{id}/cancel"
        | "/v1/drain-plan"
        | "/v1/drains"
        | "/v1/drains/{id}/cancel"
        | "/v1/hosts/{name}/links/{target}/check" => Role::Mover,
        _ => Role::Admin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles() -> Roles {
        let text = r#"
            [[roles]]
            role = "mover"
            users = ["alice"]
            clusters = ["web"]
            [[roles]]
            role = "viewer"
            uids = [1000]
            users = ["bob"]
            [[roles]]
            role = "admin"
            users = ["carol"]
        "#;
        #[derive(Deserialize)]
        struct File {
            roles: Vec<RoleSpec>,
        }
        Roles::new(toml::from_str::<File>(text).unwrap().roles, 500)
    }

    fn user(name: &str) -> Peer {
        Peer::Certificate {
            identity: format!("user/{name}").parse().unwrap(),
            from: ([127, 0, 0, 1], 1).into(),
        }
    }

    fn process(uid: u32) -> Peer {
        Peer::Process { uid, pid: None }
    }

    #[test]
    fn a_role_is_for_whom_and_where_it_says() {
        let roles = roles();
        let web = Some("web");
        for (peer, cluster, role) in [
            (user("alice"), web, Some(Role::Mover)),
            (user("alice"), Some("db"), Some(Role::Viewer)),
            (user("alice"), None, Some(Role::Viewer)),
            (user("bob"), web, Some(Role::Viewer)),
            (user("carol"), None, Some(Role::Admin)),
            (user("mallory"), web, None),
            (process(0), None, Some(Role::Admin)),
            (process(500), web, Some(Role::Admin)),
            (process(1000), web, Some(Role::Viewer)),
            (process(1001), web, None),
        ] {
            assert_eq!(roles.of(&peer, cluster), role, "{peer:?} {cluster:?}");
        }
        let agent = Peer::Certificate {
            identity: "agent/h1".parse().unwrap(),
            from: ([127, 0, 0, 1], 1).into(),
        };
        assert_eq!(roles.of(&agent, web), None);
    }

    #[test]
    fn where_nothing_is_configured_the_fleet_may_look_and_root_decides() {
        let none = Roles::new(Vec::new(), 500);
        assert_eq!(none.of(&user("alice"), None), Some(Role::Viewer));
        assert_eq!(none.of(&process(1000), None), None);
        assert_eq!(none.of(&process(0), None), Some(Role::Admin));
    }
}
