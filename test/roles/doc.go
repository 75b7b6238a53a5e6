// Package roles proves that each part of Holdfast works with the rights that
// its role is given at the store, and does not even try more: the publisher
// never deletes, a recovery only reads.
package roles
