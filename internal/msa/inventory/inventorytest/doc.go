// Package inventorytest is the suite that every inventory.Provider passes, and a
// Follower that keeps an inventory by a provider's updates as a manager does.
package inventorytest
