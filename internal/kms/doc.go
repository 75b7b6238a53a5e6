// Package kms is the seam to key services: a service keeps a key that never
// leaves it, and wraps and unwraps small secrets with it for whoever it lets.
//
// A [Client] stands for one key of one service. A wrapped secret is bound to a
// context the caller names (here: the container and its data key), so that it
// opens as that and as nothing else. A [URI] names the key and holds no
// credentials; those come from the environment of who asks.
//
//	vault://HOST[:PORT]/MOUNT/KEY[?namespace=NS]     HashiCorp Vault, OpenBao: transit engine
//	vault+http://127.0.0.1:PORT/MOUNT/KEY            the same without TLS, on this machine alone
//	azurekv://NAME.vault.azure.net/KEY[/VERSION]     Azure Key Vault: RSA-OAEP-256
//
// Drivers are the packages below; package kmstest is what each must pass. What
// a service keeps of a wrapped secret is nothing: the caller stores it.
package kms
