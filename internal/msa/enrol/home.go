package enrol

import (
	"holdfast/internal/msa/site"
)

// Home is who a box is, as its directory says.
type Home struct {
	Name    site.Name `json:"name"`
	Role    site.Role `json:"role"`
	Manager string    `json:"manager"` // address
}

// HomeOf reads what Join made of a directory. Kinds: NotFound, Corrupt.
func HomeOf(dir string) (Home, error) {
	h, err := (&Agent{Dir: dir}).home()
	return Home{h.Name, h.Role, h.Manager}, err
}

// RoleOf returns the role that a token invites to, so that a host component knows to
// bring its id. Kind Invalid: it is no token.
func RoleOf(token string) (site.Role, error) {
	t, err := parseTicket(token)
	return t.Role, err
}
