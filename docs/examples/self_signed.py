import trio_duplex

credentials = trio_duplex.Credentials.mutual(
    certificate_chain="node.pem",
    private_key="node.key",
    trusted_certificates="devices.pem",  # as many certificates as there are devices
)
