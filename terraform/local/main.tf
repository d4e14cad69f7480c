# Tenants of a running `cellway dev`, created through the CLI. See ../README.md for what this can and cannot do.

terraform {
  required_version = ">= 1.4"
}

variable "cellway" {
  description = "The cellway binary."
  type        = string
  default     = "cellway"
}

variable "port_base" {
  description = "The first port of the running `cellway dev`."
  type        = number
  default     = 8080
}

variable "tenants" {
  description = "Tenants by id, each with its cell (null: the planner chooses) and tier."
  type = map(object({
    cell = optional(string)
    tier = optional(string, "standard")
  }))
  default = {
    blueprint = { cell = "cell-a" }
    foundry   = { tier = "pro" }
  }

  validation {
    condition     = alltrue([for id in keys(var.tenants) : can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", id))])
    error_message = "A tenant's id is a DNS label: a-z, 0-9 and '-', not at an end, at most 63 characters."
  }
}

resource "terraform_data" "tenant" {
  for_each         = var.tenants
  triggers_replace = [each.key]

  provisioner "local-exec" {
    command = join(" ", compact([
      "\"$CELLWAY\" tenant show \"$TENANT\" --port-base \"$PORT_BASE\" >/dev/null 2>&1 ||",
      "\"$CELLWAY\" tenant create \"$TENANT\" --port-base \"$PORT_BASE\" --tier \"$TIER\"",
      each.value.cell == null ? "" : "--cell \"$CELL\"",
    ]))
    environment = {
      CELLWAY   = var.cellway
      TENANT    = each.key
      TIER      = each.value.tier
      CELL      = each.value.cell == null ? "" : each.value.cell
      PORT_BASE = tostring(var.port_base)
    }
  }
}

output "urls" {
  description = "Where the tenants answer."
  value       = { for id in keys(var.tenants) : id => "http://${id}.cells.localhost:${var.port_base}" }
}
