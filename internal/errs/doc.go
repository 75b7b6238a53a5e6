// Package errs gives every failure of Holdfast a kind that a machine can act
// on and a message that a person can act on.
//
// An [Error] says which operation failed (Op), what it was working on
// (Object), of which [Kind] the failure is, what the user can do about it
// (Remedy) and what caused it (Err). Kinds are few and stable: they decide
// retries, exit codes and, between boxes, cross the wire.
//
// The package imports only the standard library and holds no state.
package errs
