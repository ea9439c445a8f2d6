def audit_receipts(directory, thorough=False):
    return {}
