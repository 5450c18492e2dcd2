"""The sample platform: schema, data, workload and the demonstration built on them."""
