import trio_duplex

credentials = trio_duplex.Credentials.mutual(
    certificate_chain="node.pem",
    private_key="node.key",
    trusted_certificates=["device-1.pem", "device-2.pem"],
)
