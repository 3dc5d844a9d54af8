// The parts of Apache ECharts that the page needs; README.md has the command that makes echarts.js of them.
import { init, use } from "echarts/core";
import { GraphChart, HeatmapChart, LineChart, ScatterChart } from "echarts/charts";
import { GridComponent, TooltipComponent, VisualMapContinuousComponent, DataZoomInsideComponent } from "echarts/components";
import { CanvasRenderer } from "echarts/renderers";

use([
  LineChart, ScatterChart, GraphChart, HeatmapChart, GridComponent, TooltipComponent, VisualMapContinuousComponent,
  DataZoomInsideComponent, CanvasRenderer,
]);

export { init };
