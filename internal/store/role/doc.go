// Package role gives a store only the rights that one role has at a customer's
// object store, to prove that each part of Holdfast works with no more than
// docs/operate/stores.md asks for it: the publisher never deletes, a recovery
// never writes. What is beyond the role is refused with kind Denied, as a
// store would, and counted by operation, so that a test can also say that
// nothing beyond the role was even tried.
//
// It keeps nobody from anything: real rights belong to the store's
// credentials.
package role
