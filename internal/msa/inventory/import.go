package inventory

import (
	"context"

	"holdfast/internal/msa/catalog"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/site"
)

// Import stores an inventory that somebody else has kept: of a site that is lost, as
// its manager knew it. A site that has a keeper here knows better: then nothing is
// stored, and the answer is false. What is there besides stays.
func Import(ctx context.Context, tx *db.Tx, inv *site.Inventory) (bool, error) {
	if _, err := tx.Exec(ctx, `INSERT INTO inventory_sites (site, generation, seen_at, away_since, words, owner, epoch, lease_until)
		VALUES ($1, 0, 0, 0, '', '', 0, 0) ON CONFLICT (site) DO NOTHING`, string(inv.Site)); err != nil {
		return false, err
	}
	g := newGeneration(tx)
	n, err := tx.Exec(ctx, `UPDATE inventory_sites SET words = $2, generation = CASE WHEN generation >= $3 THEN generation + 1 ELSE $3 END
		WHERE site = $1 AND seen_at = 0 AND owner = ''`, string(inv.Site), "as its manager knew it when it was imported", g)
	if err != nil || n == 0 {
		return false, err
	}
	led, err := readLedger(ctx, tx, inv.Site)
	if err != nil {
		return false, err
	}
	whole := *inv
	d, err := led.compare(Update{Places: led.merged(&whole), VMs: whole.VMs})
	if err != nil {
		return false, err
	}
	if err := led.write(ctx, tx, d); err != nil {
		return false, err
	}
	return true, catalog.Note(ctx, tx, "inventory", string(inv.Site), "import", "")
}
