//! `tcpSocket`: a connection that is made is a success, and closed at once.

use std::time::Duration;

use k8s_openapi::api::core::v1::TCPSocketAction;

use super::target::Target;
use crate::plan::action::Answer;

/// Asks once.
pub async fn probe(target: &Target<'_>, action: &TCPSocketAction, within: Duration) -> Answer {
    let address = match target.address(action.host.as_deref(), &action.port) {
        Ok(address) => address,
        Err(e) => return Answer::Errored(e.into()),
    };
    match tokio::time::timeout(within, address.dial()).await {
        Ok(Ok(_)) => Answer::Passed,
        Ok(Err(e)) => Answer::Failed(address.refused(&e).into()),
        Err(_) => Answer::Failed(format!("dial tcp {}: i/o timeout", address.shown()).into()),
    }
}
