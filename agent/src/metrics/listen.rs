//! Where to listen.
use std::{
    fmt,
    net::{Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// An address to listen at, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listen {
    Nowhere,
    /// A port on every address of the node, of both families.
    Everywhere(u16),
    At(SocketAddr),
}

impl Listen {
    pub(super) fn address(self) -> Option<SocketAddr> {
        match self {
            Self::Nowhere => None,
            Self::Everywhere(port) => Some((Ipv6Addr::UNSPECIFIED, port).into()),
            Self::At(address) => Some(address),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nowhere => f.write_str("none"),
            Self::Everywhere(port) => write!(f, ":{port}"),
            Self::At(address) => address.fmt(f),
        }
    }
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        const WRONG: &str = "must be :PORT, ADDRESS:PORT, [ADDRESS]:PORT or none";
        if text == "none" {
            return Ok(Self::Nowhere);
        }
        let listen = match text.strip_prefix(':') {
            Some(port) => Self::Everywhere(port.parse().map_err(|_| WRONG)?),
            None => Self::At(text.parse().map_err(|_| WRONG)?),
        };
        // Nobody would know which port the kernel chose.
        if listen.address().is_some_and(|address| address.port() == 0) { Err(WRONG) } else { Ok(listen) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_shown() {
        for text in ["none", ":9962", "127.0.0.1:9962", "[::1]:9962", "[::]:1"] {
            assert_eq!(text.parse::<Listen>().map(|listen| listen.to_string()).as_deref(), Ok(text));
        }
        for wrong in
            ["", "9962", ":", ":0", ":65536", "127.0.0.1", "127.0.0.1:0", "::1:9962", "host:1", ":-1"]
        {
            assert!(wrong.parse::<Listen>().is_err(), "{wrong}");
        }
    }
}
