from trio_duplex import AllOf, Credentials, NamedByAddress, NamedPeer, Role, RolesAllowed

# Gateways dial as TLS clients, agents dial as TLS servers, and nobody else dials at all.
who = RolesAllowed(
    {
        "gateway.fleet.example": Role.CLIENT,
        "agent-1.fleet.example": Role.SERVER,
        "agent-2.fleet.example": Role.SERVER,
    }
)

# And each of them only from where it belongs.
where = NamedByAddress(
    {
        "192.0.2.0/24": "gateway.fleet.example",
        "198.51.100.0/24": ["agent-1.fleet.example", "agent-2.fleet.example"],
    }
)

listening = Credentials.mutual(
    certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem",
    peer=AllOf(who, where),
)  # fmt: skip

# The dialling end knows whom it dials.
dialling = Credentials.mutual(
    certificate_chain="node.pem", private_key="node.key", trust="fleet-ca.pem",
    peer=NamedPeer("listener.fleet.example"),
)  # fmt: skip
