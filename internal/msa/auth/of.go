package auth

// OfUser is the principal of a user with grants, for whoever has authenticated them
// in another way: programs of the manager itself, and tests.
func OfUser(user string, grants ...Grant) *Principal {
	return &Principal{User: user, grants: grants}
}
