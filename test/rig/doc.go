// Package rig is what tests with real appliances share: the product's binary
// run as processes that can be killed, stopped and starved ([Process]), and the
// network between boxes, which can be slow or cut ([Exchange]).
//
// A test binary serves as the product's binary: its TestMain calls [Main]
// first, so that the code under test is the same and nothing has to be built.
package rig
