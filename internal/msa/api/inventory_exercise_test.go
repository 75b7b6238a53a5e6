package api

import (
	"holdfast/internal/msa/alarm"
	"holdfast/internal/msa/db"
	"holdfast/internal/msa/inventory"
	"holdfast/internal/msa/inventory/fake"
	"holdfast/internal/msa/scan"
)

// exercisesOfInventory are about inventories, alarms, outlets and statistics.
func init() {
	get := func(id, path string) exercise {
		return exercise{id, func(r *rig) answer { return r.send("GET", path, nil) }}
	}
	exercises = append(exercises, []exercise{
		{"list-inventories", func(r *rig) answer {
			inv := fake.Estate("lisbon", 3)
			r.tx(func(tx *db.Tx) error { _, err := inventory.Import(r.t.Context(), tx, &inv); return err })
			return r.send("GET", "/inventories", nil)
		}},
		get("get-inventory", "/inventories/lisbon"), get("list-vms", "/inventories/lisbon/vms?limit=2"), get("get-vm", "/inventories/lisbon/vms/vm-00001"),
		get("list-placeholders", "/placeholders"),
		{"repair-placeholders", func(r *rig) answer { return r.send("POST", "/placeholders/repair", obj{"site": "lisbon"}) }},
		{"import", func(r *rig) answer {
			d := &scan.Document{Format: 1, Domain: "far", Site: "porto", Objects: "apiVersion: holdfast/v1\nkind: site\nname: porto\nplatform: fake\n", Inventory: fake.Estate("porto", 1)}
			b, err := d.Encode()
			if err != nil {
				r.t.Fatal(err)
			}
			return r.send("POST", "/imports", obj{"documents": [][]byte{b}})
		}},
		{"list-alarms", func(r *rig) answer {
			r.tx(func(tx *db.Tx) error { return alarm.Set(r.t.Context(), tx, alarm.StoreAway, "far", true, "") })
			return r.send("GET", "/alarms?all=true", nil)
		}},
		{"acknowledge-alarm", func(r *rig) answer {
			return r.send("POST", "/alarms/acknowledge", obj{"code": "store-away", "object": "far"})
		}},
		get("list-alarm-events", "/alarm-events?limit=1"), get("list-alarm-codes", "/alarm-codes"),
		{"put-outlet", func(r *rig) answer {
			return r.send("PUT", "/outlets/log", obj{"name": "log", "sort": "syslog", "address": "127.0.0.1:1"})
		}},
		get("get-outlet", "/outlets/log"), get("list-outlets", "/outlets"),
		{"test-outlet", func(r *rig) answer { return r.send("POST", "/outlets/log/test", nil) }},
		{"delete-outlet", func(r *rig) answer { return r.send("DELETE", "/outlets/log", nil) }},
		get("list-metrics", "/stats/metrics"), get("list-stat-objects", "/stats/metrics/rpo_ms/objects"), get("get-stats", "/stats?metric=rpo_ms&object=domain+x"),
		get("get-metrics", "/metrics"), get("get-support-bundle", "/support-bundle"),
	}...)
}
