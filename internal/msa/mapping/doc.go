// Package mapping says where VMs go at another site: which network, folder, pool
// and storage policy stand for the ones at home, which network stands for it in a
// test, and which addresses guests get.
//
// [Mappings] are of one direction, with a word about the way back for each pair:
// yes, different, or no. [Mappings.Reverse] makes the mappings of the other
// direction from it. A [Resolver] answers for one VM: a [Placement], with what its
// cards are told. Overrides of one VM (site.RecoverySettings) go before mappings,
// mappings before the default.
//
// # Addresses
//
//	the card's own setting          10.2.0.80/24   (ip mode auto or manual)
//	else the longest subnet rule    10.1.0.0/24 → 10.2.0.0/24: .12 stays .12
//	else                            the guest is not touched
//
// A subnet rule describes both subnets, each with gateway and DNS servers, so that
// failback has them too. v4 and v6 are alike; families never mix.
//
// # Gaps
//
// [Gaps] lists all that would go wrong, for live and test, while there is still
// time: unmapped things, targets that do not exist, ways back that are missing or
// ambiguous, subnets that overlap, addresses outside their subnet, two VMs with one
// address. A recovery from a disaster is not stopped by gaps: an unmapped network
// is an isolated one unless the default says otherwise.
package mapping
