package mapping

const (
	// MaxPairs bounds each list of mappings; a site has few more networks.
	MaxPairs = 4000
	// MaxRules bounds the subnet rules; they are searched for each address.
	MaxRules = 1000
	// MaxSubnetHosts bounds gateways, and servers, of one subnet.
	MaxSubnetHosts = 8
)
