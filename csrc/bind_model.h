#pragma once

#include <nanobind/nanobind.h>

namespace membound {

void bind_model(nanobind::module_& m);

}  // namespace membound
