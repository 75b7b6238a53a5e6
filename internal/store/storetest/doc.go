// Package storetest is the suite that every driver and wrapper of package
// store must pass: the contract of store.Store, said in tests. The names of
// the subtests are the promises.
//
// Package fault, below, makes a store misbehave on purpose.
package storetest
